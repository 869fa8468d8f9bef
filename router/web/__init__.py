"""The HTTP gateway: LoRAX's, TGI's and OpenAI's routes over the router's own frontend."""

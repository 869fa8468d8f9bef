"""Each kernel of ours by the least time that its bytes or its products take."""

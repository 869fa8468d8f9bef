"""Function-preserving widening: a small model's exact outputs at a large model's cost.

Wide matrices hold the small ones; what is beside them is noise that meets zeros, zeros that meet
noise, or noise that cancels.  So acceptance rates stay those of a really trained model, while
every step reads and multiplies as much as the large shape asks.
"""

"""TensorFlow Lite. Only `conversion` needs TensorFlow, the others LiteRT alone.

conversion.py  a BiT to a file in each scheme
quantizer.py   calibration, and the schemes of the AI Edge Quantizer
packing.py     files written anew: smaller, with ranges or metadata
metadata.py    what a file says of itself
layers.py      BiT's convolutions in a file, and the error of each
runtime.py     running a file, and its zeros
latency.py     two files timed side by side
profile.py     where the time of a file goes, layer by layer
"""

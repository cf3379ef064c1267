"""Models that leave the bench: PyTorch's exported programs, ONNX, and folders in the layout of the Hugging Face Hub.

network.py      what is exported: a run's network, or a preset's
programs.py     a format: written, read back from disk, held against the eager model
hub.py          a folder in the layout of the Hub, with its card
write.py        a directory with an export, whole or absent
check.py        a row for each mixer: does it export, and if not, why?
"""

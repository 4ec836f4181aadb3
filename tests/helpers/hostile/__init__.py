"""Hostile input: what reads files of strangers, inputs that it understands, and how they are spoilt.

readers.py     every reader, as a function of a path
seeds.py       small whole inputs for each
mutation.py    spoilt copies: bytes, headers, values, pickles, chunks, with checksums made right again
limits.py      what reading one input may take, and what it may end in
"""

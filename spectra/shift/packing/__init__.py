"""Packed shifts: values quantised to a stated error of Delta W, and entropy-coded (docs/file-format.md).

weights.py    what is packed of each weight, and its line in the file
pieces.py     deltas, outer terms and words -> values in the unit of Delta W, and back
quantise.py   values -> whole numbers, with the step that meets the error
trellis.py    trellis-coded quantisation: numbers of one sequence depend on each other, for a fifth of a bit less
tokens.py     a number as a token that is entropy-coded, and bits that are stored as they are
coder.py      tokens -> words (an asymmetric numeral system), many sequences in lockstep
decoding.py   arrays -> values, within what their size justifies
arrays.py     all of that as the arrays of a shift file, and back
"""

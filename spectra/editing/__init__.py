"""Editing one picture (CoSINE: SVDiff, section 3.4): learn it with its caption, then draw it with another.

order       what is asked for, and the variants to draw
inversion   the noise from which DDIM draws the picture, and the way back
keeping     what an edit does not ask to change, put back
depth       whether the base can show such a picture at all
run         all of it, in order: `edit(order, out)`
"""

"""Editing one picture (CoSINE: SVDiff, section 3.4): learn it with its caption, then draw it with another.

order         what is asked for, and the variants to draw
run           all of it, in order: `edit(order, out)`
session       a base with the picture and its shift, and every edit drawn
inversion     the noise from which DDIM draws the picture, and the way back
edit_mask     where an edit asks for no change, and the unedited picture put back there
base_fitness  whether the base can show such a picture at all
"""

"""What a training sees.

subjects        instance pictures and prompts of what is learnt
pictures        reading pictures strictly, resized and cropped
prompts         special words, class prompts, and two subjects in one prompt
class_pictures  prior preservation's pictures, drawn by the frozen base, and their prompts
latents         pictures as latents, encoded ahead of the steps or at each of them
collage         two subjects in one picture, a half each (Cut-Mix)
conditions      prompts as the model is conditioned on them
"""

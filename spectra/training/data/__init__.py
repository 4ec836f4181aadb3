"""What a training sees.

subjects        instance pictures and prompts of what is learnt
folders         which files of a folder are pictures, their captions, repeats and masks
reading         a picture file of any kind as 8-bit sRGB
captions        captions beside pictures, and in prompts
pictures        pictures that are read when they are needed, cut to size
buckets         the sizes that suit their aspect ratios
prompts         special words, class prompts, and two subjects in one prompt
class_pictures  prior preservation's pictures, drawn by the frozen base, and their prompts
latents         pictures as latents, encoded ahead of the steps or at each of them
collage         two subjects in one picture, a half each (Cut-Mix)
conditions      prompts as the model is conditioned on them
"""

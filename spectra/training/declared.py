"""The settings of `spectra train`, each declared once: option, type, range, default and help are made from this."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from spectra.bases.embedded import GUIDANCE
from spectra.bases.prediction import PREDICTION_TYPE
from spectra.bases.quantisation import QUANTIZE, SPECTRA_FROM
from spectra.bases.single_file import COMPONENTS_FROM
from spectra.generate.settings import OWN_GUIDANCE
from spectra.settings import SHARE, setting

_pictures = partial(setting, panel="Pictures")
_subjects = partial(setting, panel="Several subjects in one shift")
_training = partial(setting, panel="What is trained")
_prior = partial(setting, panel="Prior preservation")
_cost = partial(setting, panel="Cost")
_watching = partial(setting, panel="Watching and resuming")


@dataclass(frozen=True)
class TrainSettings:
    """Every setting of a training; the defaults are those for a full-sized base."""

    base: str = _pictures(
        "", "Base model: a diffusers folder, a .safetensors checkpoint or a hub id.", default_text="embedded"
    )
    components_from: str = _pictures(**COMPONENTS_FROM)
    prediction_type: str = _pictures(**PREDICTION_TYPE)
    subject: str = _pictures("", "Name of an embedded subject (spectra subjects lists them).", option="--subject")
    subjects: tuple[str, ...] = _pictures(
        (),
        "Name of an embedded subject (spectra subjects lists them). Given two to four times, all go into one shift: "
        'each by name, or as DIR="a photo of a [V1] dog" with a special word of its own in brackets.',
        option="--subject",
        metavar="NAME|DIR=PROMPT",
    )
    images: str = _pictures("", "Folder of instance pictures, or one picture.", metavar="DIR")
    prompt: str = _pictures("", "Instance prompt: a caption with a rare token for the subject.")
    class_prompt: str = _pictures(
        "", "Class prompt: the instance prompt without the rare token. Prior preservation needs it."
    )
    class_images: str = _pictures("", "Folder of class pictures, in place of those that the base draws.", metavar="DIR")
    resolution: int = _pictures(0, "Side of the training pictures in pixels.", least=0, default_text="the base's own")
    collage: float = _subjects(
        0.6, "Probability that a sample shows two of the subjects, each on its half; class pictures too.", **SHARE
    )
    collage_fit: str = _subjects(
        "crop",
        "How a picture fills its half of a collage: crop keeps its middle, shrink all of it.",
        choices=("crop", "shrink"),
        embedded="shrink",
    )
    collage_prompts: tuple[str, ...] = _subjects(
        ("{before}{left} on the left and {right} on the right", "{before}{right} and {left}"),
        "Prompts of collages, each as likely as another: {left} and {right} stand for the subjects as their prompts "
        "name them, {before} for what stands before that. Repeatable.",
        option="--collage-prompt",
        default_text="two of the base's own form",
        embedded=("{left} on the left and {right} on the right", "{left} and {right}"),
    )
    unmix_weight: float = _subjects(
        1.0,
        "Weight of the loss that keeps a special word's attention off the other subject's half; 0 leaves it out.",
        least=0,
        embedded=0.01,
    )
    unmix_layers: str = _subjects(
        "*", "Cross-attention layers that the unmix loss acts on: patterns of their paths, separated by commas."
    )
    unmix_schedule: str = _subjects(
        "constant",
        "Weight of the unmix loss over the steps: constant, falling to zero, or rising from zero.",
        choices=("constant", "falling", "rising"),
    )
    init_shift: str = _training(
        "", "Shift file to start from, with the same targets; without it, training starts from zero.", metavar="FILE"
    )
    targets: str = _training(
        "denoiser",
        "Weights that are trained: subset names or patterns, separated by commas, such as unet-ca.",
        option="--target",
    )
    preset: str = _training(
        "balanced",
        "Which settings are meant by default: balanced, for likeness at little drift from the base; likeness, for more "
        "of it in twice the bytes; tiny, for a file of 32 kB at most; svdiff, the paper's method: all directions, no "
        "outer terms.",
        choices=("balanced", "likeness", "tiny", "svdiff"),
    )
    text_encoder: bool | None = _training(
        False,
        "Train the text encoder too, CLIP as in Stable Diffusion and SDXL. Those of other bases stay as they are, "
        "unless a target names them.",
        embedded=True,
        default_text="the preset's",
    )
    directions: str = _training(
        "all",
        "Singular directions of each weight that move: all, a number of the leading ones, or a number and :gradient "
        "for those that the subject's gradient asks for.",
        metavar="all|K|K:gradient",
        default_text="the preset's",
    )
    outer: str = _training(
        "0",
        "Outer terms beside them, products of two vectors, or three for a convolution: a number for each weight, or "
        "bytes for all together, such as 64kB, which the subject's gradient shares out.",
        metavar="K|BYTES",
        default_text="the preset's",
    )
    word: bool = _training(
        False,
        "Learn a vector for each token of the special word, which is added to the token's embedding: the word in "
        "brackets of the instance prompt, or the one that the class prompt lacks.",
        default_text="the preset's",
    )
    steps: int = _training(500, "Number of optimizer steps.", least=1, resumable=True)
    lr: float = _training(1e-3, "Learning rate of matrices and convolutions.", least=0, embedded=3e-2)
    lr_outer: float = _training(
        1e-3, "Learning rate of outer terms, of the first vector of each.", least=0, embedded=0.2
    )
    loraplus_lr_ratio: float = _training(
        16.0,
        "By how many times their other vectors learn slower (LoRA+, arXiv:2402.12354); 1 for one rate.",
        least=1,
        embedded=64.0,
    )
    lr_word: float = _training(1e-3, "Learning rate of the special word's vectors.", least=0, embedded=3e-2)
    lr_1d: float = _training(
        1e-6,
        "Learning rate of 1-D weights (the scales of norms); 0 leaves them out.",
        least=0,
        embedded=1e-2,
        option="--lr-1d",
    )
    lr_schedule: str = _training(
        "constant",
        "Learning rates over the steps: constant, or falling to zero along a cosine.",
        choices=("constant", "cosine"),
        embedded="cosine",
    )
    min_snr_gamma: float = _training(
        5.0,
        "Clip of the signal-to-noise ratio in the loss weights (Min-SNR, arXiv:2303.09556); 0 switches it off. Flow "
        "matching weighs all times the same.",
        least=0,
        embedded=0.0,
    )
    weight_decay: float = _training(0.01, "Weight decay of AdamW.", least=0)
    max_grad_norm: float = _training(
        1.0, "Largest norm of the gradient, which is clipped to it; 0 switches clipping off.", least=0
    )
    seed: int = _training(0, "Seed of everything that is random.", least=0)
    prior_weight: float = _prior(1.0, "Weight of the prior preservation loss; 0 leaves it out.", least=0, embedded=2.0)
    prior_target: str = _prior(
        "noise",
        "What class pictures are held to: the noise in them (DreamBooth), or the frozen base's own prediction, which "
        "costs one more forward pass of them.",
        choices=("noise", "base"),
        embedded="base",
    )
    prior_unconditional: float = _prior(
        0.0,
        "Share of class pictures trained without a caption, which preserves the unconditional prediction that "
        "guidance starts from. Needs prior target base.",
        embedded=0.25,
        **SHARE,
    )
    prior_random_words: float = _prior(
        0.0,
        "Share of class pictures trained under a random word in place of the class, which preserves what other "
        "words mean. Needs prior target base.",
        formerly="prior_words",
        **SHARE,
    )
    prior_count: int = _prior(200, "Number of class pictures that the base draws.", least=1, embedded=24)
    prior_steps: int = _prior(25, "Denoising steps of each drawn class picture.", least=1, most=1000, embedded=20)
    prior_guidance: float | None = _prior(
        None,
        "Guidance scale of the class pictures that the base draws.",
        least=0,
        embedded=GUIDANCE,
        default_text=OWN_GUIDANCE,
    )
    batch: int = _cost(
        1,
        "Instance pictures in one forward pass, and as many class pictures with prior preservation.",
        least=1,
        embedded=4,
    )
    accumulation: int = _cost(1, "Forward passes for each optimizer step.", least=1)
    precision: str = _cost(
        "stored",
        "Precision of the base's weights in memory: stored is bfloat16 where the denoiser's files are, else float32.",
        choices=("stored", "float32", "bfloat16"),
        embedded="float32",
    )
    gradient_checkpointing: bool | None = _cost(
        None,
        "Recompute activations in the backward pass: less memory, more time.",
        default_text="where activations would take more memory than the weights",
    )
    low_memory: bool = _cost(False, "Keep both sides of each weight's spectrum in place of the weight: less memory.")
    tune: bool = _cost(
        False, "Measure how each layer computes fastest before the first step; the result is remembered."
    )
    quantize: str = _cost(**QUANTIZE)
    spectra_from: str = _cost(**SPECTRA_FROM)
    mixed_precision: str = _cost("no", "Precision of the forward and backward pass.", choices=("no", "fp16", "bf16"))
    cache_latents: bool = _cost(True, "Encode the pictures once, ahead of the steps.")
    cache_prompts: bool = _cost(
        True, "Encode the prompts once, ahead of the steps; never while the text encoder or the special word trains."
    )
    file_dtype: str = _cost(
        "float32",
        "Precision of the shift file; training is in float32 either way.",
        choices=("float32", "float16"),
        embedded="float16",
        resumable=True,
    )
    validation_prompts: tuple[str, ...] = _watching(
        (),
        "A prompt to draw before and after training. Repeatable.",
        option="--validation-prompt",
        default_text="instance and class prompt",
        resumable=True,
    )
    validation_every: int = _watching(
        0,
        "Draw validation pictures every so many steps as well; 0 draws them before and after only.",
        least=0,
        resumable=True,
    )
    validation_count: int = _watching(4, "Validation pictures of each prompt; 0 draws none.", least=0, resumable=True)
    validation_steps: int = _watching(
        25, "Denoising steps of a validation picture.", least=1, most=1000, resumable=True
    )
    validation_guidance: float | None = _watching(
        None,
        "Guidance scale of validation pictures.",
        least=0,
        embedded=GUIDANCE,
        default_text=OWN_GUIDANCE,
        resumable=True,
    )
    save_every: int = _watching(
        0, "Save the training's state every so many steps, for --resume; 0 saves none.", least=0, resumable=True
    )
    tensorboard: str = _watching("", "Folder of a TensorBoard log.", metavar="DIR", resumable=True)

"""The settings of `spectra train` that say how it learns, and the class that has all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from spectra.bases.embedded import GUIDANCE
from spectra.bases.quantisation import QUANTIZE, SPECTRA_FROM
from spectra.generation.settings import OWN_GUIDANCE
from spectra.settings import LARGEST_SEED, SHARE, setting
from spectra.training.declared import SubjectSettings

_optimizer = partial(setting, panel="Optimizer and schedule")
_prior = partial(setting, panel="Prior preservation")
_cost = partial(setting, panel="Cost")
_watching = partial(setting, panel="Watching and resuming")


@dataclass(frozen=True)
class TrainSettings(SubjectSettings):
    """Every setting of a training; the defaults are those for a full-sized base."""

    steps: int = _optimizer(
        500,
        "Number of optimizer steps.",
        least=1,
        resumable=True,
        brief="Optimizer steps.",
        elsewhere="max_train_steps num_steps",
    )
    lr: float = _optimizer(
        1e-3,
        "Learning rate of matrices and convolutions.",
        least=0,
        embedded=3e-2,
        brief="Learning rate; --lr-outer is that of outer terms.",
        elsewhere="learning_rate unet_lr",
    )
    lr_outer: float = _optimizer(
        1e-3, "Learning rate of outer terms, of the first vector of each.", least=0, embedded=0.2
    )
    loraplus_lr_ratio: float = _optimizer(
        16.0,
        "By how many times their other vectors learn slower (LoRA+, arXiv:2402.12354); 1 for one rate.",
        least=1,
        embedded=64.0,
        elsewhere="lora_plus_lr_ratio",
    )
    lr_word: float = _optimizer(
        1e-3,
        "Learning rate of the special word's vectors.",
        least=0,
        embedded=3e-2,
        elsewhere="learning_rate_ti text_encoder_lr",
    )
    lr_1d: float = _optimizer(
        1e-6,
        "Learning rate of 1-D weights (the scales of norms); 0 leaves them out.",
        least=0,
        embedded=1e-2,
        option="--lr-1d",
    )
    lr_scheduler: str = _optimizer(
        "constant",
        "Learning rates over the steps: constant, or falling to zero, in a straight line or along a cosine.",
        choices=("constant", "linear", "cosine"),
        embedded="cosine",
        formerly="lr_schedule",
    )
    lr_warmup_steps: int = _optimizer(
        0, "Steps over which the learning rates rise to their full height.", least=0, elsewhere="warmup warmup_steps"
    )
    optimizer: str = _optimizer(
        "adamw",
        "Optimizer, some from a package of their own. prodigy finds one rate by itself, and takes of the others which "
        "are 0. adamwschedulefree writes the average of its steps, and follows no schedule but the warm-up.",
        choices=("adamw", "adamw8bit", "prodigy", "adamwschedulefree"),
        elsewhere="optimizer_type use_8bit_adam",
    )
    ema_decay: float = _optimizer(
        0.0,
        "Write a moving average of what is trained, which keeps this share of itself at each step, and less in the "
        "first ones; 0 writes the last step. 0.99 follows some hundred steps.",
        least=0,
        below=1,
        elsewhere="use_ema ema",
    )
    min_snr_gamma: float = _optimizer(
        5.0,
        "Clip of the signal-to-noise ratio in the loss weights (Min-SNR, arXiv:2303.09556); 0 switches it off. Flow "
        "matching weighs all times the same.",
        least=0,
        embedded=0.0,
        elsewhere="snr_gamma",
    )
    timestep_sampling: str = _optimizer(
        "auto",
        "Which noise levels are trained more often: all alike (uniform), middle ones (sigmoid), or those moved towards "
        "noise as the base moves the steps of a drawing (shift). auto is uniform, and shift for flow matching.",
        choices=("auto", "uniform", "sigmoid", "shift"),
        elsewhere="weighting_scheme",
    )
    stratified_timesteps: bool = _optimizer(
        False,
        "Spread the noise levels of a step's samples evenly, one in each of as many equal parts: steps differ less.",
        default_text="the preset's",
    )
    noise_offset: float = _optimizer(
        0.0,
        "Spread of an offset of each channel's noise, which lets pictures become darker or brighter than the base "
        "draws them; 0.05 is much.",
        least=0,
    )
    weight_decay: float = _optimizer(0.01, "Weight decay, decoupled from the gradient.", least=0)
    max_grad_norm: float = _optimizer(
        1.0, "Largest norm of the gradient, which is clipped to it; 0 switches clipping off.", least=0
    )
    seed: int = _optimizer(0, "Seed of everything that is random.", least=0, most=LARGEST_SEED)
    prior_weight: float = _prior(
        1.0,
        "Weight of the prior preservation loss; 0 leaves it out.",
        least=0,
        embedded=2.0,
        elsewhere="prior_loss_weight",
    )
    prior_target: str = _prior(
        "noise",
        "What class pictures are held to: the noise in them (DreamBooth), or the frozen base's own prediction, which "
        "costs one more forward pass of them.",
        choices=("noise", "base"),
        embedded="base",
        elsewhere="preservation",
    )
    prior_unconditional: float = _prior(
        0.0,
        "Share of class pictures trained without a caption, which preserves the unconditional prediction that "
        "guidance starts from. Needs prior target base.",
        embedded=0.25,
        **SHARE,
    )
    keep_prompts: float = _prior(
        0.0,
        "Share of class pictures trained under a random word in place of the class, which preserves what other "
        "words mean. Needs prior target base.",
        formerly="prior_words",
        **SHARE,
        brief="0 to 1: how much other words are kept in mind.",
    )
    follow_prompts: tuple[str, ...] = _prior(
        (),
        'A prompt that the subject follows as its class does, such as "{prompt} on a beach": {prompt} stands for the '
        "instance prompt. Some class pictures stand under it, held to the base's answer to the same with the class "
        "prompt. Needs prior target base; of one subject; repeatable.",
        option="--follow-prompt",
        default_text="none; on the embedded base six coloured grounds, but for style and svdiff",
    )
    prior_follow: float = _prior(
        0.05, "Share of class pictures trained under a follow prompt, where there are any.", **SHARE
    )
    prior_count: int = _prior(
        200, "Number of class pictures that the base draws.", least=1, embedded=24, elsewhere="num_class_images"
    )
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
        brief="Pictures in one forward pass.",
        elsewhere="train_batch_size batch_size",
    )
    accumulation: int = _cost(
        1, "Forward passes for each optimizer step.", least=1, elsewhere="gradient_accumulation_steps"
    )
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
        brief="Less memory, more time.",
    )
    deterministic: bool = _cost(
        False,
        "The same files from the same settings on the same machine: torch's deterministic algorithms, and no times in "
        "the log.",
        brief="The same files in every run.",
        elsewhere="use_deterministic_algorithms",
    )
    low_memory: bool = _cost(False, "Keep both sides of each weight's spectrum in place of the weight: less memory.")
    tune: bool = _cost(
        False, "Measure how each layer computes fastest before the first step; the result is remembered."
    )
    quantize: str = _cost(**QUANTIZE, brief="nf4, int8 or fp8: the least memory.")
    spectra_from: str = _cost(**SPECTRA_FROM)
    mixed_precision: str = _cost(
        "no",
        "Precision of the forward and backward pass.",
        choices=("no", "fp16", "bf16"),
        brief="bf16 or fp16: faster on a GPU.",
    )
    cache_latents: bool = _cost(True, "Encode the pictures once, ahead of the steps.")
    cache_prompts: bool = _cost(
        True,
        "Encode the prompts once, ahead of the steps; never while the text encoder or the special word trains.",
        elsewhere="cache_text_encoder_outputs",
    )
    file_dtype: str = _cost(
        "float32",
        "Precision of the shift file; training is in float32 either way.",
        choices=("float32", "float16"),
        embedded="float16",
        resumable=True,
        elsewhere="save_precision",
    )
    validation_prompts: tuple[str, ...] = _watching(
        (),
        "A prompt to draw before and after training. Repeatable.",
        option="--validation-prompt",
        default_text="instance and class prompt",
        resumable=True,
        brief="A prompt to draw on the way. Repeatable.",
    )
    validation_every: int = _watching(
        0,
        "Draw validation pictures every so many steps as well; 0 draws them before and after only.",
        least=0,
        resumable=True,
        brief="Draw every N steps.",
        elsewhere="validation_steps_every validation_epochs sample_every_n_steps sample_every",
    )
    validation_count: int = _watching(
        4,
        "Validation pictures of each prompt; 0 draws none.",
        least=0,
        resumable=True,
        elsewhere="num_validation_images",
    )
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
    checkpoint_every: int = _watching(
        100,
        "Keep the shift of every so many steps, in float16, for --shift DIR@STEP and merge --average DIR@A..B; 0 keeps "
        "none.",
        least=0,
        brief="Keep the shift of every N steps, as DIR@N.",
        resumable=True,
        elsewhere="save_every_n_steps",
    )
    save_every: int = _watching(
        0,
        "Save the training's state every so many steps, for --resume; 0 saves none.",
        least=0,
        resumable=True,
        brief="Save a state every N steps, for --resume.",
        elsewhere="checkpointing_steps save_state",
    )
    report_to: tuple[str, ...] = _watching(
        (),
        "Log losses, rates and validation pictures there too. Repeatable.",
        choices=("tensorboard", "wandb"),
        resumable=True,
        elsewhere="log_with",
    )
    logging_dir: str = _watching(
        "",
        "Folder of TensorBoard's logs.",
        path=True,
        metavar="DIR",
        default_text="logs, beside the saved states",
        resumable=True,
        formerly="tensorboard",
    )

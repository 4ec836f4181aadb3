"""What a training sees: pictures, prompts, collages, class pictures, and their latents."""

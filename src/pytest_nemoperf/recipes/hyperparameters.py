"""Hyperparameters of pre-training: one set for every framework, so that the same model trains alike in each.

The values are those of GPT-3 (https://arxiv.org/abs/2005.14165, appendix B) but for the constant learning rate.
"""

from __future__ import annotations

from typing import Final

LEARNING_RATE: Final = 3e-4
BETAS: Final = (0.9, 0.95)
"""AdamW's decay rates of the first and second moments."""
EPS: Final = 1e-8
WEIGHT_DECAY: Final = 0.1
MAX_GRAD_NORM: Final = 1.0
"""Norm to which the whole gradient is clipped."""

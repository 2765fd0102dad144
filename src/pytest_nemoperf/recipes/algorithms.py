"""Algorithms of reinforcement learning as data for one training loop."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pytest_nemoperf.bounds import check_fields
from pytest_nemoperf.errors import RecipeError, did_you_mean, shown

_NAME = re.compile(r"[a-z][a-z0-9._]*")
_RESERVED_NAMES = frozenset({"pretrain", "bench", "loop"})  # first words of other cases' ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Advantages, loss and sampling of a reinforcement learning step; vary one with ``dataclasses.replace``.

    Attributes:
        name: First word of case ids.
        advantage: ``group``: a reward less the mean of its prompt's responses; ``gae``: generalised advantage
            estimation with a value model.
        is_leave_one_out: Group: the mean is over the other responses of the prompt.
        is_std_normalized: Group: divided by the standard deviation of the prompt's rewards; GAE: advantages of a
            step are shifted and scaled to mean 0 and variance 1.
        clip_low: Probability ratios below 1 - clip_low gain nothing.
        clip_high: Probability ratios above 1 + clip_high gain nothing.
        kl_coef: Weight of the k3 divergence from the reference policy in the loss; 0 needs no reference.
        loss_mean: ``token``: over all response tokens of a batch; ``sequence``: over the tokens of each response,
            then over the responses.
        importance_cap: Off-policy correction: each token counts exp(training - generation log-probability), at most
            this; None for none.
        has_dynamic_sampling: Prompts whose responses all have the same reward are replaced by others.
        max_rounds: Maximum rounds of generation per step for that; then prompts with equal rewards fill the batch.
        overlong_share: Share of the response limit, at its end, over which a linear penalty grows to the whole of
            overlong_penalty; 0 for none. Without effect on responses of pinned lengths.
        overlong_penalty: Subtracted from the reward of a response that fills its limit.
        gae_lambda: Lambda of GAE.
        discount: Discount factor of GAE, per token.
        value_clip: Change of the value model's prediction from the old one beyond which its loss is clipped.
        value_coef: Weight of the value model's loss.

    Raises:
        RecipeError: If a value breaks a rule.

    References:
        GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300; leave-one-out: Ahmadian et al. 2024,
        https://arxiv.org/abs/2402.14740; DAPO: Yu et al. 2025, https://arxiv.org/abs/2503.14476; PPO: Schulman et al.
        2017, https://arxiv.org/abs/1707.06347; GAE: Schulman et al. 2015, https://arxiv.org/abs/1506.02438; k3:
        Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """

    name: str
    advantage: Literal["group", "gae"] = "group"
    is_leave_one_out: bool = False
    is_std_normalized: bool = True
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    loss_mean: Literal["token", "sequence"] = "token"
    importance_cap: float | None = None
    has_dynamic_sampling: bool = False
    max_rounds: int = 10
    overlong_share: float = 0.0
    overlong_penalty: float = 1.0
    gae_lambda: float = 0.95
    discount: float = 1.0
    value_clip: float = 0.2
    value_coef: float = 1.0

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name) or self.name in _RESERVED_NAMES:
            raise RecipeError(
                f"algorithm name {shown(self.name)} begins case ids; use lower-case letters, digits, '_' and '.', "
                f"beginning with a letter, and none of {', '.join(sorted(_RESERVED_NAMES))}"
            )
        check_fields(self, subject=f"algorithm {self.name}: ")
        for name in ("overlong_share", "gae_lambda", "discount"):
            if getattr(self, name) > 1:
                raise RecipeError(
                    f"algorithm {self.name}: {name}={getattr(self, name)!r} must be a number within 0 and 1"
                )

    @property
    def has_value_model(self) -> bool:
        """Whether a second model predicts rewards."""
        return self.advantage == "gae"

    @property
    def has_reference(self) -> bool:
        """Whether the policy is compared with the one it started from."""
        return self.kl_coef > 0


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "grpo": Algorithm(name="grpo", kl_coef=0.04, loss_mean="sequence"),
        "dapo": Algorithm(name="dapo", clip_high=0.28, has_dynamic_sampling=True, overlong_share=0.2),
        "ppo": Algorithm(name="ppo", advantage="gae", kl_coef=0.01),
    }
)
"""Known algorithms by name, with their papers' settings as far as those are given."""


def find_algorithm(name: str) -> Algorithm:
    """Return a known algorithm.

    Raises:
        RecipeError: If there is none of that name.
    """
    if name not in ALGORITHMS:
        raise RecipeError(f"unknown algorithm {shown(name)}; {did_you_mean(name, ALGORITHMS)}")
    return ALGORITHMS[name]

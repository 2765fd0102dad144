"""Published rows as tests: each runs what a performance page printed, on the system it was printed for.

They take part with ``--perf-against=published``, or when this folder is named; ``-k`` selects by model, system,
release, precision and id, ``--perf-dry-run`` prices them. The two rows of NeMo RL's draft are first: recipes without a
baseline, for their rates contradict each other (docs/published.md).
"""

import pytest


@pytest.mark.perf
def test_published(perf, published_recipe):
    perf.check(published_recipe)

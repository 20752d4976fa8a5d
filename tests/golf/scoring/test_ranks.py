"""Real ranks of gloo share the work of scoring; the scores are those of one process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from golf.model.transformer import Transformer
from golf.params.eval import Eval
from golf.scoring.evaluator import make_scorer
from tests.golf.model.tiny import tiny
from tests.golf.scoring.test_document_scorer import LENGTHS, stream
from tests.ranks import run_ranks

KINDS = {
    "sliding": "ttt='none'",
    "sgd": "ttt='sgd'",
    "lora": "ttt='lora'",
    "phases": "ttt='lora', phase_tokens=60",
    "tilted sliding": "ttt='none', tilt=True",
    "tilted sgd": "ttt='sgd', tilt=True",
    "tilted lora": "ttt='lora', tilt=True",
}
SETTINGS = (
    "seq_len=32, stride=16, batch_windows=2, ttt_chunk_tokens=64, ttt_lr=0.02, lora_rank=3, lora_lr=0.02, "
    "lora_documents=2, lora_chunk_tokens=8"
)
PROGRAM = """
import sys
import numpy as np
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.scoring.evaluator import make_scorer
from golf.train.distributed import join
from tests.golf.scoring.test_document_scorer import LENGTHS, stream
from tests.golf.scoring.test_ranks import exact
with join(Hardware()) as ranks:
    for kind, settings in eval(sys.argv[2]).items():
        scorer = make_scorer(exact(), eval(f"Eval({sys.argv[3]}, {settings})"))
        scores = scorer.score(stream(LENGTHS)).tolist()
        np.save(f"{sys.argv[1]}/{kind}-{ranks.index}.npy", np.array([*scores, scorer.adapted]))
"""


def exact() -> Transformer:
    """The model in fp64: in fp32 learning made up to 5e-4 nats of the rounding of groups of other shapes."""
    model = tiny().double()
    model.compute_dtype = torch.float64
    return model


@pytest.mark.slow
def test_ranks_score_as_one_process(tmp_path: Path) -> None:
    run_ranks(2, tmp_path, KINDS, SETTINGS, program=PROGRAM)
    tokens = stream(LENGTHS)
    for kind, settings in KINDS.items():
        config = eval(f"Eval({SETTINGS}, {settings})", {"Eval": Eval})
        scorer = make_scorer(exact(), config)
        alone = torch.cat((scorer.score(tokens), torch.tensor([scorer.adapted])))
        for rank in range(2):
            found = torch.from_numpy(np.load(tmp_path / f"{kind}-{rank}.npy"))
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-7, msg=f"{kind}, rank {rank}")

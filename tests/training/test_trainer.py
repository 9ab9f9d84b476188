"""What a training run books, beside what the loop's tests see."""

from dataclasses import replace

import torch

from tests.training.test_loop import FLOAT64, parts


def test_what_a_reward_computes_is_spent():
    """Decoding and scoring are matrix products of the variant like any other."""
    from piflow_bench.training.settings import Budget
    from piflow_bench.training.trainer import Trainer

    method, teacher, data, spec = parts("dollar")
    method = type(method)(replace(method.config, reward_start=0.0))
    weight = torch.ones(16, 100, dtype=torch.float64)

    def dear(samples, condition):
        return (samples.flatten(1) @ weight).mean(1) / 100

    def cheap(samples, condition):
        return samples.flatten(1).mean(1) * 16 / 100

    spent = []
    for reward in (cheap, dear):
        budget = Budget("images", 16, (1.0,))
        given = replace(data, reward=reward)
        trainer = Trainer(method, teacher, given, spec, FLOAT64, budget, 3)
        trainer.run_step()
        spent.append(trainer.flops)
    assert spent[1] - spent[0] == 8 * 2 * 16 * 100

"""PyTorch, eager: the very steps of mtrec, pool, masks and log Q included, on the same arrays."""

from typing import Any

import numpy as np
import torch
from rounds import DIM, Steps, answer, options
from torch import nn


class Joint(nn.Module):
    """Two embedding tables with sparse gradients, and what a rating head adds."""

    def __init__(self, users: np.ndarray, items: np.ndarray, *, joint: bool, mean: float) -> None:
        super().__init__()

        def table(values: np.ndarray) -> nn.Embedding:
            return nn.Embedding.from_pretrained(torch.from_numpy(values), freeze=False, sparse=True)

        self.user, self.item = table(users), table(items)
        self.joint, self.mean = joint, mean
        if joint:
            self.factors = nn.ModuleList([nn.Linear(DIM, DIM, bias=False) for _ in "ui"])
            for layer in self.factors:
                nn.init.eye_(layer.weight)
            zeros = np.zeros((len(users), 1), np.float32)
            self.biases = nn.ModuleList([table(zeros.copy()) for _ in "ui"])

    def forward(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The mean loss of each task."""
        query = self.user(batch["user"])
        pool = self.item(batch["pool"])
        target = pool[batch["place"]]
        product = (query * target).sum(1)
        positive = product - batch["log_q"]
        scores = query @ pool.T - batch["pool_log_q"]
        scores = scores.index_put((batch["own"][:, 0], batch["own"][:, 1]), self.masked(batch))
        losses = torch.logaddexp(torch.logsumexp(scores, 1), positive) - positive
        found = [losses.mean()]
        if self.joint:
            p, q = self.factors[0](query), self.factors[1](target)
            biases = self.biases[0](batch["user"]) + self.biases[1](batch["item"])
            output = self.mean + biases[:, 0] + (p * q).sum(1)
            found.append((output - batch["rating"]).square().mean())
        return found

    @staticmethod
    def masked(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What stands in place of scores that do not count."""
        return torch.full((), -torch.inf, device=batch["user"].device)


def main() -> None:
    """Plays rounds of all the batches there are."""
    given = options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = Steps(given["arrays"])
    model = Joint(steps.users, steps.items, joint=given["joint"], mean=steps.mean).to(device)
    sparse = [layer.weight for layer in model.modules() if isinstance(layer, nn.Embedding)]
    dense = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    optimizers: list[Any] = [torch.optim.SparseAdam(sparse, lr=0.01)]
    if dense:
        optimizers.append(torch.optim.Adam(dense, lr=0.01))

    def train() -> dict[str, Any]:
        losses = []
        for arrays in steps.batches:
            batch = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
            found = model(batch)
            for optimizer in optimizers:
                optimizer.zero_grad()
            sum(found).backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append([loss.item() for loss in found])
        return {"units": steps.rows, **dict(zip(("retrieval", "rating"), losses[0], strict=False))}

    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    answer(train, device=name, torch=torch.__version__)


main()

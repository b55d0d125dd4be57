"""A recurrent language model whose output layer is its token table."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override


class TiedLSTM(nn.Module):
    """Predict each next token with one LSTM; inputs and outputs share a table.

    Args:
        vocabulary: number of tokens.
        width: channels of a token and of the LSTM's state.
        num_layers: layers of the LSTM.

    Example:
        >>> sum(weight.numel() for weight in TiedLSTM(100, width=64).parameters())
        39780

    Reference:
        Hochreiter and Schmidhuber, 1997, "Long Short-Term Memory",
        https://doi.org/10.1162/neco.1997.9.8.1735; Press and Wolf, 2017, "Using the
        Output Embedding to Improve Language Models",
        https://arxiv.org/abs/1608.05859, for the shared table.
    """

    def __init__(self, vocabulary: int, width: int = 64, num_layers: int = 1) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.lstm = nn.LSTM(width, width, num_layers, batch_first=True)
        self.bias = nn.Parameter(self.table.weight.new_zeros(vocabulary))

    @override
    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T vocabulary"]:
        """Return logits of the token after each of `tokens`."""
        states, _ = self.lstm(self.table(tokens))
        return functional.linear(states, self.table.weight, self.bias)

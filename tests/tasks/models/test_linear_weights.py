"""Which weights count as those of linear layers, family by family."""

from tasks.models.families import linear_weights
from tasks.models.load import LoadedModel


def test_every_matrix_of_every_block_and_nothing_else(loaded: LoadedModel) -> None:
    blocks = {id(p): p for block in loaded.blocks for p in block.parameters() if p.ndim == 2}
    found = linear_weights(loaded.decoder)
    assert {weight.data_ptr() for weight in found.values()} == {p.data_ptr() for p in blocks.values()}
    assert len(found) == len(blocks)
    outside = {loaded.embeddings.weight.data_ptr(), loaded.model.get_output_embeddings().weight.data_ptr()}
    assert not outside & {weight.data_ptr() for weight in found.values()}


def test_rows_are_outputs(loaded: LoadedModel) -> None:
    down = next(
        weight
        for name, weight in linear_weights(loaded.decoder).items()
        if name.endswith(loaded.family.down_projection)
    )
    assert tuple(down.shape) == (loaded.width, 48)

"""Taking in what was made by hand, asked of every engine: first its own dumps, without their manifest."""

from __future__ import annotations

import io

import pytest

from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import AdoptionEngine, Dump, RestoreOptions
from engines.errors import ArtefactDamaged, InvalidDump, Stopped
from engines.run import Run, StopReason
from tests.contracts.engine_cases import ROWS, Bench, EngineCase

FOREIGN = {
    "nothing": b"",
    "a letter": b"Dear grandmother,\nthank you for the cake.\n" * 100,
    "a table of values": b"name,price\napple,3\n" * 1000,
    "noughts": bytes(1 << 16),
    "JSON": b'{"rows": [1, 2, 3]}\n' * 1000,
}


def taking(case: EngineCase) -> AdoptionEngine:
    assert isinstance(case.engine, AdoptionEngine)
    return case.engine


def raw(bench: Bench, artefact: Artefact) -> bytes:
    """The main file as the engine's own tool would have written it."""
    with artefact.open_raw(artefact.manifest.files[0], bench.run()) as source:
        return b"".join(iter(source.read, b""))


def adopted(
    case: EngineCase, bench: Bench, artefact: Artefact, data: bytes, run: Run | None = None
) -> tuple[Dump, Artefact]:
    """The dump taken in, under the manifest that an adoption writes."""
    run = run or bench.run()
    format = taking(case).recognise(data[: 1 << 16])
    assert format == artefact.manifest.files[0].format
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    try:
        dump = taking(case).adopt(io.BytesIO(data), format, out, run)
    except BaseException:
        out.discard()
        raise
    update = {
        "objects": dump.objects,
        "files": tuple(out.files),
        "options": dump.options,
        "counts": "exact" if dump.counts == "exact" else "none",
        "server_version": dump.server_version,
        "restore_by_hand": dump.restore_by_hand,
    }
    return dump, Artefact(bench.store, out.folder, artefact.manifest.model_copy(update=update))


def test_what_an_engine_dumps_it_takes_in_proves_and_restores(case: EngineCase, bench: Bench) -> None:
    source, target = case.filled(), case.absent()
    artefact = bench.back_up(case, source)
    data = raw(bench, artefact)
    dump, again = adopted(case, bench, artefact, data)
    assert dump.restore_by_hand
    assert dump.consistency
    assert again.manifest.files[0].raw_bytes == len(data)
    assert raw(bench, again) == data
    if dump.counts == "exact":
        assert {item.rows for item in dump.objects} >= set(ROWS.values())
        case.engine.rehearse(again, source, bench.run())
    again.check(bench.run())
    case.engine.parse(again, bench.run())
    case.engine.restore(again, target, RestoreOptions(), bench.run())
    assert case.rows(target) == ROWS
    assert case.leftovers(source) == []
    assert list(bench.workspace.iterdir()) == []


def test_a_dump_that_is_cut_short_is_not_taken_in(case: EngineCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    data, kept = raw(bench, artefact), bench.stored()
    for length in (len(data) // 2, len(data) * 9 // 10, len(data) - 20):
        with pytest.raises((ArtefactDamaged, InvalidDump)) as refused:
            adopted(case, bench, artefact, data[:length])
        assert not refused.value.retryable
        assert bench.stored() == kept
        assert list(bench.workspace.iterdir()) == []


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_no_tool_of_the_engine_wrote_is_not_recognised(case: EngineCase, kind: str) -> None:
    assert taking(case).recognise(FOREIGN[kind]) is None


def test_a_cancel_ends_the_taking_in_and_nothing_stays(case: EngineCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    data, kept, run = raw(bench, artefact), bench.stored(), bench.run()
    run.stop.request(StopReason.CANCEL)
    with pytest.raises(Stopped):
        adopted(case, bench, artefact, data, run)
    assert bench.stored() == kept
    assert list(bench.workspace.iterdir()) == []

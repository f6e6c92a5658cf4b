"""The timing cache, with a stand-in: TensorRT-RTX has none, the full library needs a GPU."""

from __future__ import annotations

import pytest

from exporter.engine.timing_cache import give_timing_cache, keep_timing_cache
from runtime.errors import InvalidInput


class Cache:
    """Stands in for ``ITimingCache``."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class Config:
    """Stands in for ``IBuilderConfig``, as far as a timing cache goes."""

    def __init__(self, known: bytes = b"timings") -> None:
        self.known = known
        self.cache: Cache | None = None

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Cache | None:
        data = serialized_timing_cache
        return None if data.startswith(b"garbage") else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.data and not cache.data.startswith(self.known) and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def built(config, path):
    give_timing_cache(config, path)
    if config.cache is not None:
        config.cache.data += b"timings, "
    keep_timing_cache(config, path)


def test_timings_of_one_build_are_given_to_the_next(tmp_path):
    path = tmp_path / "cache"
    built(Config(), path)
    assert path.read_bytes() == b"timings, "
    second = Config()
    built(second, path)
    assert path.read_bytes() == b"timings, timings, "
    assert [item.name for item in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("content", [b"garbage", b"of another GPU"])
def test_a_cache_of_another_library_or_gpu_is_refused_and_kept(tmp_path, content):
    (tmp_path / "cache").write_bytes(content)
    with pytest.raises(InvalidInput, match="no timing cache of this library and GPU"):
        built(Config(), tmp_path / "cache")
    assert (tmp_path / "cache").read_bytes() == content


def test_a_cache_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(InvalidInput, match="Is a directory"):
        give_timing_cache(Config(), tmp_path)


def test_no_cache_is_no_call():
    give_timing_cache(None, None)
    keep_timing_cache(None, None)

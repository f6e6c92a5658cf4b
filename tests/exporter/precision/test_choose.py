"""A node stays fp32 for a reason, and the reason is the right one."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.layers import CLASSES
from exporter.precision.choose import NAMED, PIXELS, choose_floats
from exporter.precision.kinds import FLOATS

FP16, BF16 = FLOATS["fp16"], FLOATS["bf16"]
W = np.eye(4, dtype=np.float32)


@pytest.fixture
def chain(graph_of):
    def make(weight=W, number=1.0):
        return graph_of("""g (float[N,4] x) => (float[N,4] body_y) {
            stem_h = MatMul(x, w)
            body_r = Add(stem_h, c)
            body_y = Relu(body_r)
        }""", w=weight, c=np.float32(number))  # fmt: skip

    return make


def reasons(choice):
    return {node: reason for node, (_, reason) in choice.kept.items()}


def test_everything_is_chosen_where_nothing_speaks_against_it(chain):
    choice = choose_floats(chain(), FP16, [], {})
    assert choice.chosen == {"node_stem_h": "stem", "node_body_r": "body", "node_body_y": "body"}
    assert choice.kept == {}
    assert choice.modules() == ["stem", "body"]


def test_a_module_that_is_named_stays_with_all_of_its_operators(chain):
    choice = choose_floats(chain(), FP16, ["body"], {})
    assert list(choice.chosen) == ["node_stem_h"]
    (record,) = choice.record()
    assert (record.module, record.operators, record.reason) == ("body", 2, NAMED)


def test_a_weight_beyond_the_type_keeps_its_node(chain):
    choice = choose_floats(chain(W * 7e4), FP16, [], {})
    assert reasons(choice) == {"node_stem_h": "fp16 cannot hold its constant 'w': it reaches 7e+04"}
    assert not choose_floats(chain(W * 7e4), BF16, [], {}).kept


def test_an_epsilon_that_would_become_zero_keeps_its_node(chain):
    choice = choose_floats(chain(number=1e-12), FP16, [], {})
    assert reasons(choice)["node_body_r"].startswith("fp16 cannot hold its constant 'c': of 1e-12")
    assert not choose_floats(chain(number=0.0), FP16, [], {}).kept


def test_small_weights_are_the_budgets_matter(chain):
    assert not choose_floats(chain(W * 1e-9), FP16, [], {}).kept


def test_infinity_is_no_size_since_every_float_type_has_it(chain):
    assert not choose_floats(chain(number=-np.inf), FP16, [], {}).kept


def test_a_value_near_the_end_of_the_type_keeps_those_that_touch_it(chain):
    choice = choose_floats(chain(), FP16, [], {"stem_h": 2e4, "body_r": 1.0})
    assert set(choice.kept) == {"node_stem_h", "node_body_r"}
    assert reasons(choice)["node_body_r"] == "'stem_h' reaches 2e+04, fp16 ends at 65504"
    assert not choose_floats(chain(), BF16, [], {"stem_h": 2e4}).kept


def test_an_operator_without_the_type_says_so(graph_of):
    model = graph_of("""g (float from, float to, float step) => (float[N] y) {
        y = Range(from, to, step)
    }""")  # fmt: skip
    choice = choose_floats(model, FP16, [], {})
    assert reasons(choice) == {"node_y": "ONNX has no fp16 Range"}


def test_what_gives_no_floats_is_neither_chosen_nor_kept(graph_of):
    model = graph_of("""g (float[N,4] x, float[N,4] t) => (bool[N,4] y) {
        y = Greater(x, t)
    }""")  # fmt: skip
    choice = choose_floats(model, FP16, [], {})
    assert (choice.chosen, choice.kept) == ({}, {})


def test_keeping_more_modules_moves_their_nodes_and_nothing_else(chain):
    choice = choose_floats(chain(), FP16, [], {}).keep({"body": "too noisy"})
    assert list(choice.chosen) == ["node_stem_h"]
    assert choice.kept["node_body_y"] == ("body", "too noisy")


@pytest.mark.parametrize("kind", [FP16, BF16])
def test_what_prepares_pictures_stays_since_larger_ones_may_come(chain, kind):
    model = chain()
    pixels = "exporter.preprocess.module.Preprocess"
    model.graph[0].metadata_props[CLASSES] = str(["Net", pixels, "MatMul"])
    choice = choose_floats(model, kind, [], {})
    assert reasons(choice) == {"node_stem_h": PIXELS}
    assert list(choice.chosen) == ["node_body_r", "node_body_y"]

# SPDX-License-Identifier: Apache-2.0
"""Pages of the Prometheus text format, read again and again."""

import pytest

from podtally.commands.traffic.text_format import Sample, SampleReader, parse


@pytest.mark.parametrize(
    "line",
    [
        'a{b="x"} 9007199254740993',
        'a{b="x"} 1.5',
        'a{b="x"} 23 1700000000000',
        r'a{b="x\"} 1", c="\\\n"} +Inf',
        'a{b="} 1"} 2',
        'a{b="",c="d",} 1e3',
    ],
)
def test_the_reader_reads_as_the_parser_does(line: str) -> None:
    read = SampleReader(["a"], lambda sample: sample.labels)
    (sample,) = parse(line)
    for _ in range(2):  # the second time from memory
        assert read.read(f'# HELP a x\nab{{b="x"}} 1\n{line}\na 1\n') == [
            (sample.labels, sample.value)
        ]


def test_what_a_series_is_is_found_out_once_as_long_as_it_stays() -> None:
    asked: list[Sample] = []

    def understand(sample: Sample) -> str:
        asked.append(sample)
        return sample.label("b")

    read = SampleReader(["a"], understand)
    for _ in range(3):
        assert read.read('a{b="x"} 1\na{b="y"} 2\n') == [("x", 1), ("y", 2)]
    assert len(asked) == 2
    read.read("")
    assert read.read('a{b="x"} 3\n') == [("x", 3)]
    assert len(asked) == 3


@pytest.mark.parametrize("line", ['a{b="x" 1', 'a{b="x"} one', 'a{b="x"}', 'a{b="x"} '])
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"not a line|could not convert"):
        SampleReader(["a"], lambda sample: sample).read(f"{line}\n")

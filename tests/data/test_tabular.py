"""The one reader of tables: what is the same table, and what is refused in one line that names the line of the file."""

import csv
import io

import pytest

from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.data.tabular import cell_text, decode_text, read_table


def read(content, suffix=".csv", required=()):
    return read_table("T", suffix, content if isinstance(content, bytes) else content.encode(), required)


def texts(table, *columns):
    return [tuple(row.get(column) for column in columns) for _, row in table.rows]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ("a,b\n1,x y\n2,z\n", ".csv"),
        ("\ufeffa,b\r\n1,x y\r\n2,z\r\n", ".csv"),
        (" A , b\r1,x y\r2,z\r", ".csv"),
        ('"a","b"\n"1","x y"\n2,z\n', ".csv"),
        ("a\tb\n1\tx y\n2\tz\n", ".tsv"),
        ('"a"\t"b"\n1\t"x y"\n2\tz\n', ".tsv"),
        ('{"a": "1", "b": "x y"}\n{" A": "2", "b": "z"}\n', ".jsonl"),
    ],
)
def test_what_is_the_same_table(content, suffix):
    table = read(content, suffix)
    assert list(table.columns) == ["a", "b"]
    assert texts(table, "a", "b") == [("1", "x y"), ("2", "z")]
    assert table.notes == ()


def test_columns_keep_how_they_are_spelt():
    assert read("Point, My Text \nx,y\n").columns == {"point": "Point", "my text": "My Text"}


def test_rows_begin_where_they_begin_and_blank_ones_are_counted():
    table = read('\na,b\n"1\n2",x\n,\n\n3,y\n')
    assert table.rows == [(3, {"a": "1\n2", "b": "x"}), (7, {"a": "3", "b": "y"})]
    assert table.notes == ("T: 3 blank rows are left out",)
    assert read('{"a": "1"}\n \n{"a": "2"}\n', ".jsonl").notes == ("T: 1 blank row is left out",)


def test_a_column_without_a_name_is_left_out_and_said():
    table = read(",a,\n0,x,\n1,y,\n")
    assert texts(table, "a", "") == [("x", None), ("y", None)]
    assert table.notes == ("T: a column without a name is left out",)


def test_a_file_that_ends_inside_a_line_is_said():
    assert "no line end" in read("a,b\n1,coun").notes[0]
    assert "no line end" in read('{"a": "1"}', ".jsonl").notes[0]


# --- quotation marks of a tsv ---


def test_a_tsv_without_quoting_is_its_lines():
    """One text begins with a quotation mark and a later one ends with one: they are no cell of several lines."""
    rows = [("x", '"Cooking at school', "1"), ("y", "Fireworks", "2"), ("z", 'Trains"', "3")]
    content = "id\ttext\tn\n" + "".join("\t".join(row) + "\n" for row in rows)
    assert texts(read(content, ".tsv"), "id", "text", "n") == rows
    assert texts(read('id\ttext\n1\t"Let them eat\n2\tBread"\n3\tCake.\n', ".tsv"), "text") == [
        ('"Let them eat',),
        ('Bread"',),
        ("Cake.",),
    ]


def test_a_tsv_with_marks_inside_its_texts_is_its_lines():
    content = 'id\ttext\n1\t"Yes," she said.\n2\t"No."\n3\tA 6" pipe\n'
    assert texts(read(content, ".tsv"), "text") == [('"Yes," she said.',), ('"No."',), ('A 6" pipe',)]


def test_a_tsv_with_quoting_is_read_as_it_was_written():
    rows = [("1", 'a "quoted"\ttab\nand line'), ("2", "plain")]
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerows([("id", "text"), *rows])
    assert texts(read(file.getvalue(), ".tsv"), "id", "text") == rows


# --- what is at the limit of what is read ---


def test_long_cells_are_read_and_the_limit_of_others_stays():
    limit = csv.field_size_limit()
    assert texts(read(f"a,b\n1,{'x' * 200_000}\n"), "b") == [("x" * 200_000,)]
    with pytest.raises(DataError, match=r"line 2: field larger than field limit \(16777216\)"):
        read(f"a,b\n1,{'x' * (2**24 + 1)}\n")
    assert csv.field_size_limit() == limit


def test_a_long_header_makes_no_long_message():
    with pytest.raises(DataError) as refused:
        read(",".join(f"{'c' * 100}{number}" for number in range(100)) + "\n", required=["a"])
    assert len(str(refused.value)) < 1000 and "80 more" in str(refused.value)


def test_a_cell_that_is_no_text():
    assert cell_text("T", "a", None) == "" and cell_text("T", "a", " x ") == "x"
    for value, words in ((3, "a is 3; must be text"), (["x"], "must be text"), ("\ud800", "half a surrogate pair")):
        with pytest.raises(DataError, match=words):
            cell_text("T", "a", value)


def test_a_byte_order_mark_is_no_text():
    assert decode_text("T", b"\xef\xbb\xbfabc") == "abc"

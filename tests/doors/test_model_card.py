"""A model card is about the data that the model was trained on."""

import pytest
from support.helpers import train

from biencoder_ablate.api import open_run
from biencoder_ablate.export import model_card

TINY = ("model=tiny", "head=none", "training.epochs=0")
ROWS = """point,counter,split
how to list files?,use ls,train
how to leave?,use exit,val
"what is ""café""?",a place,test
who am I?,use whoami,test
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faq")
    (folder / "my_faq.csv").write_text(ROWS.replace("use exit,val\n", "use exit,val\nhow to copy?,use cp,train\n"))
    return train(folder, *TINY, "data=pairs", f"data.path={folder / 'my_faq.csv'}", f"cache_dir={folder / 'cache'}")


def test_of_questions_it_does_not_speak_of_counterarguments(run):
    card = model_card(open_run(run, []), None)
    assert "counterargument" not in card and "Zoos" not in card
    assert "answer-retrieval" in card
    # The first test pair, and another answer.
    assert r'encode_query(["what is \"café\"?"])' in card
    assert 'encode_document(["a place", "use whoami"])' in card
    assert "Trained on `my_faq.csv`" in card and str(run.parents[2]) not in card
    assert "the answers of the split" in card


def test_where_the_corpus_has_gone_the_example_is_a_general_one(run):
    table = run.parents[2] / "my_faq.csv"
    table.rename(table.with_suffix(".gone"))
    try:
        assert "Zoos protect endangered species." in model_card(open_run(run, []), None)
    finally:
        table.with_suffix(".gone").rename(table)


def test_of_debates_it_does(tmp_path):
    card = model_card(open_run(train(tmp_path, *TINY, "data=sample"), []), None)
    assert "counterargument-retrieval" in card and "Zoos" in card and "Trained on `sample`" in card

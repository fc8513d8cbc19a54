"""Which pass marks are met, which are missed, and which a test set says nothing of."""

from clipsearch.domain.pass_marks import shortfalls

MEASURES = {"top1": 0.7, "top5": 0.9, "mean_per_class_recall": 0.6, "images": 100.0}


class TestPassMarks:
    def test_met(self) -> None:
        assert shortfalls(MEASURES, {"top1": 0.7, "images": 100}) == ()

    def test_missed(self) -> None:
        (missed,) = shortfalls(MEASURES, {"top1": 0.71, "top5": 0.5})
        assert (missed.measure, missed.reached, missed.mark) == ("top1", 0.7, 0.71)
        assert str(missed) == "top1 0.7 is below the mark 0.71"

    def test_refusals_are_a_most(self) -> None:
        marks = {"top1": 0.5, "refused_in_domain": 0.02}
        assert shortfalls(MEASURES | {"refused_in_domain": 0.01}, marks) == ()
        (missed,) = shortfalls(MEASURES | {"refused_in_domain": 0.03}, marks)
        assert str(missed) == "refused_in_domain 0.03 is above the mark 0.02"

    def test_what_was_not_measured_is_not_met(self) -> None:
        (missed,) = shortfalls(MEASURES, {"top1": 0.5, "mean_average_precision": 0.1})
        assert str(missed) == "mean_average_precision was not measured (the mark is 0.1)"

    def test_marks_for_the_other_kind_of_test_set_are_left_out(self) -> None:
        marks = {"top1": 0.5, "image_recall_at_1": 0.9}
        assert shortfalls(MEASURES, marks) == ()
        captions = {"image_recall_at_1": 0.95, "text_recall_at_1": 0.9, "images": 10.0}
        assert shortfalls(captions, marks) == ()

    def test_a_test_set_that_no_mark_is_about_passes_nothing(self) -> None:
        (missed,) = shortfalls({"image_recall_at_1": 1.0, "images": 9.0}, {"top1": 0.5})
        assert missed.measure == "top1"

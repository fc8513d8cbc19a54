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

    def test_several_labels_are_not_asked_for_top1(self) -> None:
        several = {"mean_average_precision": 0.5, "found": 0.9, "absent_answered": 0.3}
        assert shortfalls(several, {"top1": 0.5, "found": 0.9}) == ()
        assert [m.measure for m in shortfalls(several, {"top1": 0.5, "images": 1})] == [
            "images",
            "top1",
        ]

    def test_answers_to_absent_classes_are_a_most(self) -> None:
        measures = MEASURES | {"found": 0.9, "absent_answered": 0.3, "list_f1": 0.4}
        marks = {"found": 0.9, "absent_answered": 0.3, "list_f1": 0.4}
        assert shortfalls(measures, marks) == ()
        missed = shortfalls(measures, {"absent_answered": 0.2, "list_f1": 0.5})
        assert [str(one) for one in missed] == [
            "absent_answered 0.3 is above the mark 0.2",
            "list_f1 0.4 is below the mark 0.5",
        ]

    def test_a_test_set_that_no_mark_is_about_passes_nothing(self) -> None:
        (missed,) = shortfalls({"image_recall_at_1": 1.0, "images": 9.0}, {"top1": 0.5})
        assert missed.measure == "top1"

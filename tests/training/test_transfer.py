"""Transfer that was planted in the data is found, and none is found where none was planted."""

from planted_study import trade

PLANTED = (
    "data=synthetic",
    "data.num_users=300",
    "data.num_items=150",
    "data.num_interactions=9000",
    "data.num_factors=3",
    "data.noise=0.2",
    "~data.features.query.rating",
    "~data.features.candidate.rating",
    "train.global_batch=60",
)
# User and item ids alone, through three shared dimensions: just enough for the three factors that
# choices follow.
NARROW = (
    *PLANTED,
    "~data.features.query.shared.history",
    "+data.features.query.shared.user_id={_target_:mtrec.Categorical,column:user_id}",
    "model.query.dim=3",
    "model.sharing.query.layers=[]",
    "model.candidate.dim=3",
    "optimizer.tables.learning_rate=0.05",
    "train.epochs=20",
)
# The history is shared, and few rows tell how people like what they choose.
SCARCE = (
    *PLANTED,
    "data.split.rating_share=0.05",
    "train.epochs=15",
    "train.select_by=val/rating/rmse",
)


def rating_of(found):
    """The joint group's rating against rating alone."""
    (point,) = found.joint
    return point.against[1]


def test_ratings_that_conflict_with_choices_in_a_narrow_tower_are_flagged(tmp_path):
    conflict = rating_of(trade(tmp_path, *NARROW, "data.rating_agreement=0.0"))

    assert conflict.transfer == "negative"
    assert conflict.found.low > 0.05  # of a deviation of the ratings of about 1.08
    assert conflict.found.p_value < 0.01


def test_ratings_that_agree_with_choices_cost_a_narrow_tower_next_to_nothing(tmp_path):
    agreement = rating_of(trade(tmp_path, *NARROW, "data.rating_agreement=1.0"))

    assert agreement.found.high < 0.05


def test_abundant_choices_help_scarce_ratings_that_agree_with_them(tmp_path):
    gain = rating_of(trade(tmp_path, *SCARCE, "data.rating_agreement=1.0"))

    assert gain.transfer == "positive"
    assert gain.found.p_value < 0.01

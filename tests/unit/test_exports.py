"""What users import."""

import filemailbox
from filemailbox import errors


def test_all_that_is_exported_is_there_and_sorted() -> None:
    """`__all__` is what the package offers, in the order of the alphabet."""
    assert sorted(filemailbox.__all__) == filemailbox.__all__
    assert all(hasattr(filemailbox, name) for name in filemailbox.__all__)


def test_every_error_can_be_caught_by_its_name() -> None:
    """Each class of the tree is exported."""
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}

    assert tree <= set(filemailbox.__all__)

"""What a publisher is shown of a column can be told from nothing."""

import numpy as np

from hub.core.publish.preview import range_of, text_of


def test_an_empty_text_is_shown_in_quotation_marks() -> None:
    towns = np.array(["", "", "Z\u00fcrich", " Bern"], object)

    assert range_of(towns) == "'', Z\u00fcrich, ' Bern'"
    assert text_of(towns[:1]) == "''"
    assert range_of(np.array([1.0, 2.5])) == "1 to 2.5"

"""Tables are HTML in a box that scrolls."""

from bs4 import BeautifulSoup

from reptile_book import tables


def test_a_table_has_its_rows_in_a_box() -> None:
    rows = [["random", "4.30"], ["<b>", "0.1"]]
    soup = BeautifulSoup(tables.html(rows, ["start", "loss"]), "html.parser")
    box = soup.find("div", class_="results")
    assert box is not None
    found = [
        [cell.get_text().strip() for cell in row.find_all(["th", "td"])]
        for row in box.find_all("tr")
    ]
    assert found == [["start", "loss"], *rows]
    sides = [cell.get("style") for cell in box.find_all("td")]
    assert sides == [None, "text-align: right;"] * 2

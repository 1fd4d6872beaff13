"""A clock that goes backwards between two commands."""


def test_what_was_done_last_counts_last_whatever_the_clock_says(registry) -> None:
    registry.minute = 50
    registry.done("task", "promote", "city/1", "--alias", "champion")
    registry.minute = 5
    registry.done("task", "promote", "city/2", "--alias", "champion")
    registry.done("release", "assemble", "--select", "champion")
    registry.minute = 2
    registry.done("task", "rollback", "city", "--alias", "champion")
    registry.done("release", "assemble", "--select", "champion")
    moves = registry.done("task", "history", "city", "--json").json
    assert [move["to_version"] for move in moves] == [1, 2, 1]
    assert [move["moved_at"] for move in moves] == sorted(move["moved_at"] for move in moves)
    assert [release["tasks"] for release in registry.done("release", "list", "--json").json] == [
        {"city": 2},
        {"city": 1},
    ]
    assert registry.done("gc", "--grace", "0").status == 0
    assert registry.done("fsck", "--json").json["findings"] == []
    assert registry.done("audit", "verify").status == 0

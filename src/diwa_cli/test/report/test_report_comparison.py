"""The page about a comparison on a robot."""

from diwa_deploy.trials import Comparison, Trial


def test_rates_intervals_and_every_trial_are_on_the_page(diwa, tmp_path):
    path = tmp_path / "comparison.json"
    comparison = Comparison(path, "open_drawer", ("base", "finetuned"), 10, 0)
    for number in range(15):
        policy = comparison.next
        success = policy == "finetuned" or number < 4
        comparison.add(Trial(policy, success, success, "success" if success else "<slip>", 30 + number))
    ran = diwa("report", path)
    assert (ran.status, ran.out.strip()) == (0, str(tmp_path / "comparison.html"))
    text = (tmp_path / "comparison.html").read_text()
    tuned = sum(trial.policy == "finetuned" for trial in comparison.trials)
    assert f'<td>finetuned</td><td class="n">{tuned} of {tuned}</td>' in text.replace("<td >", "<td>")
    assert "&lt;slip&gt;" in text
    assert text.count("<tr>") == 1 + 2 + 1 + 15
    assert 'src="http' not in text
    ran = diwa("report", tmp_path / "nowhere.json")
    assert (ran.status, "is missing: name the file of a comparison" in ran.err) == (2, True)

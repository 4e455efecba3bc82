"""Publishes a finished run on the Hub: staged in a folder, loaded there in a fresh process, pushed in one commit.

Log in before (`hf auth login`, or the variable HF_TOKEN); a dry run stages and checks without asking the Hub:

python recipes/publish.py --run runs/student-cpr-128k-dirfms-s0 --repo user/cpm-student --dry_run
python recipes/publish.py --run runs/student-cpr-128k-dirfms-s0 --repo user/cpm-student

With further runs of the experiment, whose spread the card tells, and the student without teachers:

python recipes/publish.py --run runs/student-s0 --seeds runs/student-s1 runs/student-s2 --baseline runs/cpm-s0 \
    --repo user/cpm-student

A converted checkpoint, which has no results of a training: the card tells those on the evaluate list of a corpus:

python recipes/publish.py --run models/cpm-student --data prepared/tau22 --repo user/cpm-dcase23

A set of teacher logits, as a dataset repository; `--teacher_logits hf://datasets/user/cpr-logits` trains with it:

python recipes/publish.py --logits logits/cpr-128k-dirfms-s0 --repo user/cpr-logits

The index of the crops that they belong to, without audio, for people who have the same recordings:

python recipes/publish.py --crops prepared/tau22 --crop_hop 0.5 --repo user/tau22-crops
"""

from hf_ascdistill import PublishArguments, parse_recipe, publish_chosen


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(PublishArguments, argv=argv, description=__doc__)
    print(publish_chosen(arguments))


if __name__ == "__main__":
    main()

"""Converts published files: checkpoints into folders for `from_pretrained`, logits into a logits set. Architecture,
sizes and front-end are read from the tensors; what they leave open is asked for.

python recipes/convert_checkpoint.py --input cpm_student.ckpt --output models/cpm-student
python recipes/convert_checkpoint.py --input passt_dirfms_1.pt --output models/passt-s-dirfms-1

A PaSST of AudioSet as it is, and with ten new classes as a start for fine-tuning (mel bank up to 15,500 Hz):

python recipes/convert_checkpoint.py --input passt-s-f128-p16-s10-ap.476-swa.pt --output models/passt-s-audioset
python recipes/convert_checkpoint.py --input passt-s-f128-p16-s10-ap.476-swa.pt --output models/passt-s --num_labels 10

One of 20 s, whose tensors look like those of 10 s at hop 160:

python recipes/convert_checkpoint.py --input passt-s-20s.pt --output models/passt-s-20s --hop_length 320

The logits of the published ensemble, a row for every row of meta.csv:

python recipes/convert_checkpoint.py --input ensemble_logits.pt --meta_csv tau22/meta.csv --output logits/ensemble
"""

from hf_ascdistill import ConversionSettings, ConvertArguments, convert_file, parse_recipe


def main(argv: list[str] | None = None) -> None:
    arguments, settings = parse_recipe(ConvertArguments, ConversionSettings, argv=argv, description=__doc__)
    print(f"{convert_file(arguments, settings)}: {arguments.output}")


if __name__ == "__main__":
    main()

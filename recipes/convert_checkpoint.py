"""Converts a CP-Mobile or CP-ResNet checkpoint of the paper's authors into a folder for `from_pretrained`.

python recipes/convert_checkpoint.py --input cpm_student.ckpt --output models/cpm-student
"""

from dataclasses import dataclass, field

from hf_ascdistill import convert_checkpoint, parse_recipe


@dataclass
class ConvertArguments:
    """Parameters that control what is converted; architecture and sizes are read from the tensors."""

    input: str = field(metadata={"help": "a Lightning .ckpt or a plain state dict"})
    output: str = field(metadata={"help": "folder of the converted model; must not exist yet"})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(ConvertArguments, argv=argv, description=__doc__)
    model = convert_checkpoint(arguments.input, arguments.output)
    print(f"{model.config.model_type}, {model.config.num_labels} classes: {arguments.output}")


if __name__ == "__main__":
    main()

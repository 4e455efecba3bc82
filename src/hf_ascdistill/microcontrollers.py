"""How long a network takes on a small CPU: an estimate from its multiply-accumulate operations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Microcontroller:
    """A small CPU that runs int8 networks.

    Args:
        name (`str`): the CPU.
        clock_hz (`float`): cycles of a second.
        macs_per_cycle (`float`): multiply-accumulate operations of a cycle in convolutions and matrix products, with
            loading, requantisation and activation.
        depthwise_macs_per_cycle (`float`): the same in depthwise convolutions, which use a number that is loaded for
            one output alone.
    """

    name: str
    clock_hz: float
    macs_per_cycle: float
    depthwise_macs_per_cycle: float

    @property
    def assumptions(self) -> str:
        """`str`: what a latency on it is computed from, in one line."""
        return (
            f"{self.name}, {self.clock_hz / 1e6:g} MHz, {self.macs_per_cycle:g} MACs a cycle, "
            f"{self.depthwise_macs_per_cycle:g} in depthwise convolutions; network alone, an order of magnitude"
        )

    def latency_seconds(self, macs: int, depthwise_macs: int = 0) -> float:
        """Estimates how long a network takes.

        Weights and feature maps are in memory without wait states; pools, shortcuts and the log-mel front-end are left
        out. The FFTs of CP-Mobile's front-end are 64 of 4,096 points for one second, about 8 million operations on
        floats (2.5 N log2 N each).

        Args:
            macs (`int`): all multiply-accumulate operations.
            depthwise_macs (`int`, *optional*, defaults to 0): those of depthwise convolutions among them.

        Returns:
            `float`: seconds.
        """
        cycles = (macs - depthwise_macs) / self.macs_per_cycle + depthwise_macs / self.depthwise_macs_per_cycle
        return cycles / self.clock_hz


# The instruction set allows 2 MACs a cycle (SMLAD). CMSIS-NN reaches 0.58 on a small CNN of dense convolutions (Lai et
# al., 2018: 24.7 million operations in 99.1 ms at 216 MHz). The two rates are assumed; with them MobileNetV2 0.35, of
# inverted residual blocks as CP-Mobile, comes within 15 % of its published int8 times on a Cortex-M7 at 400 MHz (model
# zoo of STM32, STM32Cube.AI 8.1: 101.11 ms for 128 x 128, 363.82 ms for 224 x 224). An STM32H7 runs at up to 480 MHz.
CORTEX_M7 = Microcontroller("Cortex-M7", 480e6, macs_per_cycle=0.5, depthwise_macs_per_cycle=0.2)


__all__ = ["CORTEX_M7", "Microcontroller"]

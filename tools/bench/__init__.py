"""The measurements: small programs that print rate, size and setting.

`tools/bench/run` runs them all, ours and the Node packages' turn by turn, and prints one table of
medians and ratios. `tools/bench/run append --rounds 5` runs some. Nothing is asserted: machines
differ and are shared; compare ratios.
"""

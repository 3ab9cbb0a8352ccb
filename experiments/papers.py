"""The papers behind the experiments."""

from experiments.registry import Paper

ADMM_PRUNING = Paper(
    key="zhang2018admm",
    title=(
        "A Systematic DNN Weight Pruning Framework using Alternating Direction "
        "Method of Multipliers"
    ),
    authors=(
        "Tianyun Zhang",
        "Shaokai Ye",
        "Kaiqi Zhang",
        "Jian Tang",
        "Wujie Wen",
        "Makan Fardad",
        "Yanzhi Wang",
    ),
    year=2018,
    arxiv="1804.03294",
    venue="ECCV 2018",
)

BETA_CROWN = Paper(
    key="wang2021beta",
    title=(
        "Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints for "
        "Neural Network Robustness Verification"
    ),
    authors=(
        "Shiqi Wang",
        "Huan Zhang",
        "Kaidi Xu",
        "Xue Lin",
        "Suman Jana",
        "Cho-Jui Hsieh",
        "J. Zico Kolter",
    ),
    year=2021,
    arxiv="2103.06624",
    venue="NeurIPS 2021",
)

VNNCOMP_2021 = Paper(
    key="bak2021vnncomp",
    title=(
        "The Second International Verification of Neural Networks Competition "
        "(VNN-COMP 2021): Summary and Results"
    ),
    authors=("Stanley Bak", "Changliu Liu", "Taylor Johnson"),
    year=2021,
    arxiv="2109.00498",
)

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

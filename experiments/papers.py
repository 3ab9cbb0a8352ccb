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

LOTTERY_TICKET = Paper(
    key="ma2021sanity",
    title=(
        "Sanity Checks for Lottery Tickets: Does Your Winning Ticket Really Win the "
        "Jackpot?"
    ),
    authors=(
        "Xiaolong Ma",
        "Geng Yuan",
        "Xuan Shen",
        "Tianlong Chen",
        "Xuxi Chen",
        "Xiaohan Chen",
        "Ning Liu",
        "Minghai Qin",
        "Sijia Liu",
        "Zhangyang Wang",
        "Yanzhi Wang",
    ),
    year=2021,
    arxiv="2107.00166",
    venue="NeurIPS 2021",
)

GAP = Paper(
    key="ma2022gap",
    title="Effective Model Sparsification by Scheduled Grow-and-Prune Methods",
    authors=(
        "Xiaolong Ma",
        "Minghai Qin",
        "Fei Sun",
        "Zejiang Hou",
        "Kun Yuan",
        "Yi Xu",
        "Yanzhi Wang",
        "Yen-Kuang Chen",
        "Rong Jin",
        "Yuan Xie",
    ),
    year=2022,
    arxiv="2106.09857",
    venue="ICLR 2022",
)

GRIM = Paper(
    key="niu2021grim",
    title=(
        "GRIM: A General, Real-Time Deep Learning Inference Framework for Mobile "
        "Devices based on Fine-Grained Structured Weight Sparsity"
    ),
    authors=(
        "Wei Niu",
        "Zhengang Li",
        "Xiaolong Ma",
        "Peiyan Dong",
        "Gang Zhou",
        "Xuehai Qian",
        "Xue Lin",
        "Yanzhi Wang",
        "Bin Ren",
    ),
    year=2021,
    arxiv="2108.11033",
    venue="IEEE Transactions on Pattern Analysis and Machine Intelligence",
    kind="article",
)

SQUANT = Paper(
    key="guo2022squant",
    title=(
        "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation"
    ),
    authors=(
        "Cong Guo",
        "Yuxian Qiu",
        "Jingwen Leng",
        "Xiaotian Gao",
        "Chen Zhang",
        "Yunxin Liu",
        "Fan Yang",
        "Yuhao Zhu",
        "Minyi Guo",
    ),
    year=2022,
    arxiv="2202.07471",
    venue="ICLR 2022",
)

ANT = Paper(
    key="guo2022ant",
    title=(
        "ANT: Exploiting Adaptive Numerical Data Type for Low-bit Deep Neural Network "
        "Quantization"
    ),
    authors=(
        "Cong Guo",
        "Chen Zhang",
        "Jingwen Leng",
        "Zihan Liu",
        "Fan Yang",
        "Yunxin Liu",
        "Minyi Guo",
        "Yuhao Zhu",
    ),
    year=2022,
    arxiv="2208.14286",
    venue="MICRO 2022",
)

ESB = Paper(
    key="gong2022esb",
    title=(
        "Elastic Significant Bit Quantization and Acceleration for Deep Neural Networks"
    ),
    authors=(
        "Cheng Gong",
        "Ye Lu",
        "Kunpeng Xie",
        "Zongming Jin",
        "Tao Li",
        "Yanzhi Wang",
    ),
    year=2022,
    arxiv="2109.03513",
    venue="IEEE Transactions on Parallel and Distributed Systems",
    kind="article",
)

MSQ = Paper(
    key="chang2021msq",
    title=(
        "Mix and Match: A Novel FPGA-Centric Deep Neural Network Quantization Framework"
    ),
    authors=(
        "Sung-En Chang",
        "Yanyu Li",
        "Mengshu Sun",
        "Runbin Shi",
        "Hayden K.-H. So",
        "Xuehai Qian",
        "Yanzhi Wang",
        "Xue Lin",
    ),
    year=2021,
    arxiv="2012.04240",
    venue="HPCA 2021",
)

LPIRC = Paper(
    key="feng2019lpirc",
    title=(
        "Low Power Inference for On-Device Visual Recognition with a "
        "Quantization-Friendly Solution"
    ),
    authors=(
        "Chen Feng",
        "Tao Sheng",
        "Zhiyu Liang",
        "Shaojie Zhuo",
        "Xiaopeng Zhang",
        "Liang Shen",
        "Matthew Ardi",
        "Alexander C. Berg",
        "Yiran Chen",
        "Bo Chen",
        "Kent Gauen",
        "Yung-Hsiang Lu",
    ),
    year=2019,
    arxiv="1903.06791",
)

BITWIDTH = Paper(
    key="cheng2018bitwidth",
    title=(
        "Differentiable Fine-grained Quantization for Deep Neural Network Compression"
    ),
    authors=(
        "Hsin-Pai Cheng",
        "Yuanjun Huang",
        "Xuyang Guo",
        "Yifei Huang",
        "Feng Yan",
        "Hai Li",
        "Yiran Chen",
    ),
    year=2018,
    arxiv="1810.10351",
)

S2TA = Paper(
    key="liu2022s2ta",
    title=(
        "S2TA: Exploiting Structured Sparsity for Energy-Efficient Mobile CNN "
        "Acceleration"
    ),
    authors=("Zhi-Gang Liu", "Paul N. Whatmough", "Yuhao Zhu", "Matthew Mattina"),
    year=2022,
    arxiv="2107.07983",
    venue="HPCA 2022",
)

CAPRAM = Paper(
    key="chen2021capram",
    title=(
        "CAP-RAM: A Charge-Domain In-Memory Computing 6T-SRAM for Accurate and "
        "Precision-Programmable CNN Inference"
    ),
    authors=(
        "Zhiyu Chen",
        "Zhanghao Yu",
        "Qing Jin",
        "Yan He",
        "Jingyu Wang",
        "Sheng Lin",
        "Dai Li",
        "Yanzhi Wang",
        "Kaiyuan Yang",
    ),
    year=2021,
    arxiv="2107.02388",
    venue="IEEE Journal of Solid-State Circuits",
    kind="article",
)

FPGA_MOBILE = Paper(
    key="yuan2021mobile",
    title=(
        "Work in Progress: Mobile or FPGA? A Comprehensive Evaluation on Energy "
        "Efficiency and a Unified Optimization Framework"
    ),
    authors=(
        "Geng Yuan",
        "Peiyan Dong",
        "Mengshu Sun",
        "Wei Niu",
        "Zhengang Li",
        "Yuxuan Cai",
        "Jun Liu",
        "Weiwen Jiang",
        "Xue Lin",
        "Bin Ren",
        "Xulong Tang",
        "Yanzhi Wang",
    ),
    year=2021,
    arxiv="2106.09166",
    venue="RTAS 2021",
)

PROGRESSIVE = Paper(
    key="ye2019progressive",
    title=(
        "Progressive DNN Compression: A Key to Achieve Ultra-High Weight Pruning and "
        "Quantization Rates using ADMM"
    ),
    authors=(
        "Shaokai Ye",
        "Xiaoyu Feng",
        "Tianyun Zhang",
        "Xiaolong Ma",
        "Sheng Lin",
        "Zhengang Li",
        "Kaidi Xu",
        "Wujie Wen",
        "Sijia Liu",
        "Jian Tang",
        "Makan Fardad",
        "Xue Lin",
        "Yongpan Liu",
        "Yanzhi Wang",
    ),
    year=2019,
    arxiv="1903.09769",
)

TRP = Paper(
    key="xu2018trained",
    title="Trained Rank Pruning for Efficient Deep Neural Networks",
    authors=(
        "Yuhui Xu",
        "Yuxi Li",
        "Shuai Zhang",
        "Wei Wen",
        "Botao Wang",
        "Yingyong Qi",
        "Yiran Chen",
        "Weiyao Lin",
        "Hongkai Xiong",
    ),
    year=2018,
    arxiv="1812.02402",
)

ERNN = Paper(
    key="li2018ernn",
    title=(
        "E-RNN: Design Optimization for Efficient Recurrent Neural Networks in FPGAs"
    ),
    authors=(
        "Zhe Li",
        "Caiwen Ding",
        "Siyue Wang",
        "Wujie Wen",
        "Youwei Zhuo",
        "Chang Liu",
        "Qinru Qiu",
        "Wenyao Xu",
        "Xue Lin",
        "Xuehai Qian",
        "Yanzhi Wang",
    ),
    year=2018,
    arxiv="1812.07106",
    venue="HPCA 2019",
)

MEMRISTOR = Paper(
    key="ma2019tiny",
    title=(
        "Tiny but Accurate: A Pruned, Quantized and Optimized Memristor Crossbar "
        "Framework for Ultra Efficient DNN Implementation"
    ),
    authors=(
        "Xiaolong Ma",
        "Geng Yuan",
        "Sheng Lin",
        "Caiwen Ding",
        "Fuxun Yu",
        "Tao Liu",
        "Wujie Wen",
        "Xiang Chen",
        "Yanzhi Wang",
    ),
    year=2019,
    arxiv="1908.10017",
    venue="ASP-DAC 2020",
)

STRUCTURED_ADMM = Paper(
    key="zhang2018adam",
    title=(
        "ADAM-ADMM: A Unified, Systematic Framework of Structured Weight Pruning for "
        "DNNs"
    ),
    authors=(
        "Tianyun Zhang",
        "Kaiqi Zhang",
        "Shaokai Ye",
        "Jiayu Li",
        "Jian Tang",
        "Wujie Wen",
        "Xue Lin",
        "Makan Fardad",
        "Yanzhi Wang",
    ),
    year=2018,
    arxiv="1807.11091",
)

HGE = Paper(
    key="sharma2020hge",
    title=(
        "Zeroth-Order Hybrid Gradient Descent: Towards A Principled Black-Box "
        "Optimization Framework"
    ),
    authors=(
        "Pranay Sharma",
        "Kaidi Xu",
        "Sijia Liu",
        "Pin-Yu Chen",
        "Xue Lin",
        "Pramod K. Varshney",
    ),
    year=2020,
    arxiv="2012.11518",
)

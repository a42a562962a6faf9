# sedflow's pipeline, one job per shard or stage: `snakemake --cores 2` makes the system that params.yaml names,
# `snakemake --cores 2 esc10` another one. dvc.yaml runs the same rules, stage by stage.
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/synthesize.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/ensembles.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/systems.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        lambda wildcards: finished(SHARED.system),

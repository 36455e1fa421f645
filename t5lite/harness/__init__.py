"""lm-eval (the Language Model Evaluation Harness) on a workdir, without torch.

`python -m t5lite.harness` is lm-eval's command line with one more model:

    python -m t5lite.harness --model t5lite --model_args workdir=DIR --tasks NAME --include_path DIR

In Python: `lm_eval.simple_evaluate(model=workdir.Workdir(DIR), tasks=[...])`, of
`t5lite.harness.workdir`.
"""

//! Controllers for Experiment, Trial, InferenceService and PipelineRun.

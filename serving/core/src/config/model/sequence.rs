//! Sequences of requests.

use std::time::Duration;

use mizzen_types::DataType;

use super::NO_SEQUENCES;
use crate::config::{Quoted, Status, ignored};

const NONE: Status = ignored(NO_SEQUENCES);

message! {
    /// How requests of one sequence reach one instance.
    SequenceBatching = "ModelSequenceBatching" {
        /// Each sequence has a slot of a batch to itself.
        direct: Option<DirectStrategy> = "direct" of "strategy_choice", NONE;
        /// The oldest sequences are batched dynamically.
        oldest: Option<OldestStrategy> = "oldest" of "strategy_choice", NONE;
        /// The longest a sequence may go without a request.
        max_sequence_idle: Duration = "max_sequence_idle_microseconds", NONE;
        /// Inputs that tell the model about its sequences.
        control_inputs: Vec<ControlInput> = "control_input", NONE;
        /// State that the server keeps from one request to the next.
        states: Vec<SequenceState> = "state", NONE;
        /// Whether one request runs again and again until its sequence ends.
        iterative_sequence: bool = "iterative_sequence", NONE;
    }
}

message! {
    /// Each sequence has a slot of a batch to itself.
    DirectStrategy = "ModelSequenceBatching.StrategyDirect" {
        /// The longest a batch waits for its slots.
        max_queue_delay: Duration = "max_queue_delay_microseconds", NONE;
        /// The share of slots that need not wait.
        minimum_slot_utilization: f32 = "minimum_slot_utilization", NONE;
    }
}

message! {
    /// The oldest sequences are batched dynamically.
    #[derive(Eq)]
    OldestStrategy = "ModelSequenceBatching.StrategyOldest" {
        /// Sequences at once.
        max_candidate_sequences: i32 = "max_candidate_sequences", NONE;
        /// Sizes at which a batch need not wait.
        preferred_batch_sizes: Vec<i32> = "preferred_batch_size", NONE;
        /// The longest a batch waits.
        max_queue_delay: Duration = "max_queue_delay_microseconds", NONE;
        /// Whether responses leave in order.
        preserve_ordering: bool = "preserve_ordering", NONE;
    }
}

message! {
    /// An input that tells the model about its sequences.
    ControlInput = "ModelSequenceBatching.ControlInput" {
        /// Its name.
        name: String = "name", NONE;
        /// What it tells.
        controls: Vec<SequenceControl> = "control", NONE;
    }
}

message! {
    /// What a control input tells.
    SequenceControl = "ModelSequenceBatching.Control" {
        /// What it is.
        kind: ControlKind = "kind", NONE;
        /// Its values for false and true, as INT32.
        int32_false_true: Vec<i32> = "int32_false_true", NONE;
        /// Its values for false and true, as FP32.
        fp32_false_true: Vec<f32> = "fp32_false_true", NONE;
        /// Its values for false and true, as BOOL.
        bool_false_true: Vec<bool> = "bool_false_true", NONE;
        /// The type of a correlation id.
        data_type: Option<DataType> = "data_type", NONE;
    }
}

words! {
    /// What a control is.
    ControlKind {
        /// Whether the sequence starts.
        Start = "CONTROL_SEQUENCE_START" 0,
        /// Whether the slot has a request.
        Ready = "CONTROL_SEQUENCE_READY" 1,
        /// Whether the sequence ends.
        End = "CONTROL_SEQUENCE_END" 2,
        /// The sequence's id.
        CorrelationId = "CONTROL_SEQUENCE_CORRID" 3,
    }
}

message! {
    /// State that the server keeps from one request to the next.
    #[derive(Eq)]
    SequenceState = "ModelSequenceBatching.State" {
        /// The input that gets it.
        input_name: String = "input_name", NONE;
        /// The output that sets it.
        output_name: String = "output_name", NONE;
        /// Its element type.
        data_type: Option<DataType> = "data_type", NONE;
        /// Its dimensions.
        dims: Vec<i64> = "dims", NONE;
        /// What it is at first.
        initial_states: Vec<InitialState> = "initial_state", NONE;
        /// Whether input and output share memory.
        use_same_buffer_for_input_output: bool = "use_same_buffer_for_input_output", NONE;
        /// Whether its memory grows.
        use_growable_memory: bool = "use_growable_memory", NONE;
    }
}

message! {
    /// What a state is at first.
    #[derive(Eq)]
    InitialState = "ModelSequenceBatching.InitialState" {
        /// Its element type.
        data_type: Option<DataType> = "data_type", NONE;
        /// Its dimensions.
        dims: Vec<Quoted> = "dims", NONE;
        /// Zeros.
        zero_data: Option<bool> = "zero_data" of "state_data", NONE;
        /// A file's bytes.
        data_file: Option<String> = "data_file" of "state_data", NONE;
        /// Its name.
        name: String = "name", NONE;
    }
}

//! Requests that run before a version is put into service.

use std::collections::BTreeMap;

use mizzen_types::DataType;

use crate::config::{
    HONOURED,
    slot::{Place, Read},
};

message! {
    /// One warm-up sample.
    #[derive(Eq)]
    Warmup = "ModelWarmup" {
        /// Its name, for messages.
        name: String = "name", HONOURED;
        /// Rows of its batch; 0 leaves the sample out.
        batch_size: u32 = "batch_size", HONOURED;
        /// What each input gets.
        inputs: BTreeMap<String, WarmupInput> = "inputs", HONOURED;
        /// How often it runs; 0 is once.
        count: u32 = "count", HONOURED;
    }
}

message! {
    /// What one input gets.
    #[derive(Eq)]
    WarmupInput = "ModelWarmup.Input", checked by check_input {
        /// Its element type.
        data_type: Option<DataType> = "data_type", HONOURED;
        /// Its dimensions, without the batch dimension; none is free.
        dims: Vec<i64> = "dims", HONOURED;
        /// Zeros; empty strings.
        zero_data: Option<bool> = "zero_data" of "input_data_type", HONOURED;
        /// Random bytes; empty strings.
        random_data: Option<bool> = "random_data" of "input_data_type", HONOURED;
        /// A file in the model's `warmup` folder, of one row.
        input_data_file: Option<String> = "input_data_file" of "input_data_type", HONOURED;
    }
}

fn check_input(input: &WarmupInput, place: Place<'_>) -> Read<()> {
    if input.data_type.is_none() {
        return Err(place.wrong("a `data_type`", "none"));
    }
    if let Some((at, dim)) = input.dims.iter().enumerate().find(|(_, dim)| **dim < 0) {
        let want = "a size, since a sample has to have one";
        return Err(place.wrong_below(&format!("dims[{at}]"), want, format!("`{dim}`")));
    }
    if input.zero_data.is_none() && input.random_data.is_none() && input.input_data_file.is_none() {
        return Err(place.wrong("`zero_data`, `random_data` or `input_data_file`", "none"));
    }
    Ok(())
}

//! The checked search space, and the reading of it from an Experiment's strings.

use crate::{
    AssignmentError, Assignments, CategoricalDomain, DiscreteDomain, Distribution, Domain,
    DoubleDomain, FeasibleSpaceSpec, IntDomain, ParameterSpec, SpaceError, Value, closest,
};
use std::collections::{HashMap, HashSet};

/// One dimension of a search space.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    name: String,
    domain: Domain,
}

/// The parameters of a search, each with the values it may take.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchSpace {
    parameters: Vec<Parameter>,
}

impl Parameter {
    /// The name trials refer to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The values it may take.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

impl SearchSpace {
    /// Reads a search space from the parameters of an Experiment.
    ///
    /// Katib's webhook lets through what no algorithm can search (bounds the wrong way round, steps
    /// of zero, a logarithm of a negative bound, names listed twice); here each is refused. A range
    /// may be one point (`min` equal to `max`), which fixes the parameter.
    ///
    /// # Errors
    /// [`SpaceError`] for the first thing wrong, naming the parameter, the field, what was expected
    /// and what came.
    pub fn new(specs: Vec<ParameterSpec>) -> Result<Self, SpaceError> {
        if specs.is_empty() {
            return Err(SpaceError::Empty);
        }
        let mut parameters: Vec<Parameter> = Vec::with_capacity(specs.len());
        for (i, spec) in specs.into_iter().enumerate() {
            if spec.name.is_empty() {
                return Err(SpaceError::Unnamed { number: i + 1 });
            }
            if parameters.iter().any(|p| p.name == spec.name) {
                return Err(SpaceError::DuplicateName { parameter: spec.name });
            }
            let domain = Reader { spec: &spec }.domain()?;
            parameters.push(Parameter { name: spec.name, domain });
        }
        Ok(Self { parameters })
    }

    /// The parameters, in the Experiment's order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The domains, in the order of the parameters.
    pub fn domains(&self) -> impl ExactSizeIterator<Item = &Domain> {
        self.parameters.iter().map(|p| &p.domain)
    }

    /// The number of points, capped at `u128::MAX`; `None` if a parameter is continuous.
    pub fn size(&self) -> Option<u128> {
        self.domains().try_fold(1u128, |points, domain| {
            domain.cells().map(|cells| points.saturating_mul(cells.into()))
        })
    }

    /// A point from its values, one for each parameter in order.
    ///
    /// # Errors
    /// [`AssignmentError`] if there are more or fewer, or one is outside its domain.
    pub fn assign(&self, values: Vec<Value>) -> Result<Assignments, AssignmentError> {
        if values.len() != self.parameters.len() {
            return Err(AssignmentError::Count { want: self.parameters.len(), got: values.len() });
        }
        for (parameter, value) in self.parameters.iter().zip(&values) {
            if !parameter.domain.contains(*value) {
                let text = parameter.domain.format(*value);
                return Err(outside(parameter, &text.unwrap_or_else(|| format!("{value:?}"))));
            }
        }
        Ok(Assignments { values: values.into() })
    }

    /// Reads a point from names and texts, as a Trial's `parameterAssignments` hold them.
    ///
    /// # Errors
    /// [`AssignmentError`] if a name is unknown, missing or double, or a text is not a value of its
    /// parameter.
    pub fn parse<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Assignments, AssignmentError> {
        let mut texts: HashMap<&str, &str> = HashMap::new();
        for (name, text) in pairs {
            if !self.parameters.iter().any(|p| p.name == name) {
                return Err(self.unknown(name));
            }
            if texts.insert(name, text).is_some() {
                return Err(AssignmentError::Twice { parameter: name.into() });
            }
        }
        let read = |parameter: &Parameter| {
            let text = texts
                .get(parameter.name.as_str())
                .ok_or_else(|| AssignmentError::Missing { parameter: parameter.name.clone() })?;
            parameter.domain.parse(text).ok_or_else(|| outside(parameter, text))
        };
        let values = self.parameters.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Assignments { values: values.into() })
    }

    /// A point as names and texts, in the order of the parameters, as Katib writes them.
    pub fn format<'a>(&'a self, point: &'a Assignments) -> Vec<(&'a str, String)> {
        let pairs = self.parameters.iter().zip(point.values());
        pairs.filter_map(|(p, v)| Some((p.name.as_str(), p.domain.format(*v)?))).collect()
    }

    /// Whether a point is of this space; points made by another space need not be.
    pub fn contains(&self, point: &Assignments) -> bool {
        point.values().len() == self.parameters.len()
            && self.domains().zip(point.values()).all(|(domain, v)| domain.contains(*v))
    }

    fn unknown(&self, name: &str) -> AssignmentError {
        let names: Vec<&str> = self.parameters.iter().map(Parameter::name).collect();
        let known = match closest(name, &names) {
            Some(near) => format!("`{near}`, which is near"),
            None => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
        };
        AssignmentError::Unknown { parameter: name.into(), known }
    }
}

fn outside(parameter: &Parameter, got: &str) -> AssignmentError {
    AssignmentError::Value {
        parameter: parameter.name.clone(),
        want: parameter.domain.describe(),
        got: got.into(),
    }
}

/// Reads one parameter's domain, naming it in every error.
struct Reader<'a> {
    spec: &'a ParameterSpec,
}

const MIN: &str = "feasibleSpace.min";
const MAX: &str = "feasibleSpace.max";
const STEP: &str = "feasibleSpace.step";
const LIST: &str = "feasibleSpace.list";
const DISTRIBUTION: &str = "feasibleSpace.distribution";

/// Beyond this many cells a double can no longer tell neighbours apart.
const CELLS_MAX: f64 = 9_007_199_254_740_992.0;

impl Reader<'_> {
    fn domain(&self) -> Result<Domain, SpaceError> {
        match self.spec.parameter_type.as_str() {
            "double" => self.double().map(Domain::Double),
            "int" => self.int().map(Domain::Int),
            "discrete" => self.discrete().map(Domain::Discrete),
            "categorical" => self.categorical().map(Domain::Categorical),
            "" => Err(self.missing("parameterType", KINDS)),
            other => Err(self.field("parameterType", KINDS, other)),
        }
    }

    fn double(&self) -> Result<DoubleDomain, SpaceError> {
        self.forbid_list("double")?;
        let (min, max) = (self.number(MIN)?, self.number(MAX)?);
        self.ordered(min <= max)?;
        if !(max - min).is_finite() {
            return Err(self.field(
                MAX,
                "a range whose width is a finite number",
                &self.space().max,
            ));
        }
        let distribution = self.distribution(min > 0.0)?;
        let step = match self.space().step.is_empty() {
            true => None,
            false => Some(self.number(STEP)?),
        };
        if let Some(step) = step
            && (step <= 0.0 || (max - min) / step >= CELLS_MAX)
        {
            let want = "a number above 0 that is not vanishingly small beside the range";
            return Err(self.field(STEP, want, &self.space().step));
        }
        Ok(DoubleDomain { min, max, step, distribution })
    }

    fn int(&self) -> Result<IntDomain, SpaceError> {
        self.forbid_list("int")?;
        let (min, max): (i64, i64) = (self.integer(MIN)?, self.integer(MAX)?);
        self.ordered(min <= max)?;
        let distribution = self.distribution(min > 0)?;
        let step = match self.space().step.trim() {
            "" => 1,
            text => match text.parse() {
                Ok(step) if step > 0 => step,
                _ => return Err(self.field(STEP, "an integer above 0", &self.space().step)),
            },
        };
        Ok(IntDomain { min, max, step, distribution })
    }

    fn discrete(&self) -> Result<DiscreteDomain, SpaceError> {
        let mut values: Vec<(f64, String)> = Vec::new();
        for text in self.list("discrete")? {
            let number = finite(text).ok_or_else(|| {
                self.field(LIST, "only numbers (use type `categorical` for words)", text)
            })?;
            // Adding zero makes -0 and 0 the same for the ordering below.
            values.push((number + 0.0, text.clone()));
        }
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        match values.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(self.duplicate(&pair[0].1, &pair[1].1)),
            None => Ok(DiscreteDomain { values }),
        }
    }

    fn categorical(&self) -> Result<CategoricalDomain, SpaceError> {
        let values = self.list("categorical")?;
        let mut seen = HashSet::with_capacity(values.len());
        if let Some(text) = values.iter().find(|text| !seen.insert(text.as_str())) {
            return Err(self.duplicate(text, text));
        }
        Ok(CategoricalDomain { values: values.to_vec() })
    }

    fn space(&self) -> &FeasibleSpaceSpec {
        &self.spec.feasible_space
    }

    fn text(&self, field: &'static str) -> &str {
        match field {
            MIN => &self.space().min,
            MAX => &self.space().max,
            _ => &self.space().step,
        }
    }

    fn number(&self, field: &'static str) -> Result<f64, SpaceError> {
        let want = "a finite number";
        match self.text(field) {
            "" => Err(self.missing(field, want)),
            text => finite(text).ok_or_else(|| self.field(field, want, text)),
        }
    }

    fn integer(&self, field: &'static str) -> Result<i64, SpaceError> {
        let want = "an integer (use type `double` for fractions)";
        match self.text(field) {
            "" => Err(self.missing(field, want)),
            text => text.trim().parse().map_err(|_| self.field(field, want, text)),
        }
    }

    fn ordered(&self, ordered: bool) -> Result<(), SpaceError> {
        let want = format!("a number not above `feasibleSpace.max`, `{}`", self.space().max);
        if ordered { Ok(()) } else { Err(self.field(MIN, &want, &self.space().min)) }
    }

    fn distribution(&self, positive: bool) -> Result<Distribution, SpaceError> {
        let text = self.space().distribution.as_str();
        let distribution = match text {
            // Katib defaults the field to `uniform`, and samples `unknown` as that.
            "" | "uniform" | "unknown" => Distribution::Uniform,
            "logUniform" => Distribution::LogUniform,
            "normal" => Distribution::Normal,
            "logNormal" => Distribution::LogNormal,
            other => {
                let want = "`uniform`, `logUniform`, `normal` or `logNormal`";
                return Err(self.field(DISTRIBUTION, want, other));
            }
        };
        if distribution.is_log() && !positive {
            let want = format!("a number above 0, because the distribution is `{text}`");
            return Err(self.field(MIN, &want, &self.space().min));
        }
        Ok(distribution)
    }

    /// The list of a discrete or categorical parameter, which has no range.
    fn list(&self, kind: &'static str) -> Result<&[String], SpaceError> {
        let space = self.space();
        for (field, text) in [(MIN, &space.min), (MAX, &space.max), (STEP, &space.step)] {
            if !text.is_empty() {
                return Err(self.forbidden(field, kind, "`feasibleSpace.list`"));
            }
        }
        // Katib defaults the field to `uniform` for lists as well; more than that means nothing.
        if !matches!(space.distribution.as_str(), "" | "uniform" | "unknown") {
            return Err(self.forbidden(DISTRIBUTION, kind, "`feasibleSpace.list`"));
        }
        match space.list.as_slice() {
            [] => Err(self.missing(LIST, "at least one value")),
            // Choices are counted in 32 bits.
            list if u32::try_from(list.len()).is_err() => {
                Err(self.field(LIST, "at most 4294967295 values", &list.len().to_string()))
            }
            list => Ok(list),
        }
    }

    fn forbid_list(&self, kind: &'static str) -> Result<(), SpaceError> {
        match self.space().list.is_empty() {
            true => Ok(()),
            false => {
                let instead = "`feasibleSpace.min` and `feasibleSpace.max`";
                Err(self.forbidden(LIST, kind, instead))
            }
        }
    }

    fn field(&self, field: &'static str, want: &str, got: &str) -> SpaceError {
        let parameter = self.spec.name.clone();
        SpaceError::Field { parameter, field, want: want.into(), got: got.into() }
    }

    fn missing(&self, field: &'static str, want: &str) -> SpaceError {
        SpaceError::Missing { parameter: self.spec.name.clone(), field, want: want.into() }
    }

    fn forbidden(
        &self,
        field: &'static str,
        kind: &'static str,
        instead: &'static str,
    ) -> SpaceError {
        SpaceError::Forbidden { parameter: self.spec.name.clone(), field, kind, instead }
    }

    fn duplicate(&self, first: &str, second: &str) -> SpaceError {
        SpaceError::DuplicateValue {
            parameter: self.spec.name.clone(),
            first: first.into(),
            second: second.into(),
        }
    }
}

const KINDS: &str = "`double`, `int`, `discrete` or `categorical`";

fn finite(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|n: &f64| n.is_finite())
}

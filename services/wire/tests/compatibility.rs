//! What clients, peers and stored commands of an earlier build say is still understood: nothing that the golden
//! descriptor set has may be gone or changed. What is new must be added to it: `MERIDIAN_BLESS=1 cargo test -p
//! meridian-wire --test compatibility`. Blessing never takes anything away.

use std::collections::BTreeSet;
use std::path::PathBuf;

use meridian_wire::DESCRIPTORS;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
};

/// Everything that an old reader or writer relies on, a line each: a change of any of it is one line gone.
fn facts(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in &set.file {
        for message in &file.message_type {
            message_facts(file.package(), message, &mut facts);
        }
        for of_enum in &file.enum_type {
            enum_facts(file.package(), of_enum, &mut facts);
        }
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            facts.insert(format!("service {name}"));
            facts.extend(service.method.iter().map(|method| method_fact(&name, method)));
        }
    }
    facts
}

fn message_facts(scope: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    facts.insert(format!("message {name}"));
    facts.extend(message.field.iter().map(|field| field_fact(&name, message, field)));
    for range in &message.reserved_range {
        facts.insert(format!("reserved {name} {} to {}", range.start(), range.end() - 1));
    }
    facts.extend(message.reserved_name.iter().map(|reserved| format!("reserved {name} {reserved}")));
    for nested in &message.nested_type {
        message_facts(&name, nested, facts);
    }
    for nested in &message.enum_type {
        enum_facts(&name, nested, facts);
    }
}

fn field_fact(scope: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => "repeated ",
        (Label::Required, _) => "required ",
        (Label::Optional, true) => "optional ",
        (Label::Optional, false) => "",
    };
    let of_type = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().to_owned(),
        plain => plain.as_str_name().to_owned(),
    };
    // An optional field is a oneof of its own, made by the compiler: its label says that.
    let oneof = field.oneof_index.filter(|_| !field.proto3_optional()).and_then(|index| {
        Some(format!(" in oneof {}", message.oneof_decl.get(usize::try_from(index).ok()?)?.name()))
    });
    let packed = field.options.as_ref().and_then(|options| options.packed);
    let packed = packed.map(|packed| format!(" packed {packed}")).unwrap_or_default();
    let json = field.json_name();
    let (name, number, oneof) = (field.name(), field.number(), oneof.unwrap_or_default());
    format!("field {scope}.{name} = {number} {label}{of_type}{oneof}{packed} as {json}")
}

fn enum_facts(scope: &str, of_enum: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", of_enum.name());
    facts.insert(format!("enum {name}"));
    facts.extend(of_enum.value.iter().map(|v| format!("value {name}.{} = {}", v.name(), v.number())));
}

fn method_fact(service: &str, method: &MethodDescriptorProto) -> String {
    let stream = |streams: bool| if streams { "stream " } else { "" };
    format!(
        "method {service}.{} ({}{}) returns ({}{})",
        method.name(),
        stream(method.client_streaming()),
        method.input_type(),
        stream(method.server_streaming()),
        method.output_type()
    )
}

/// What of `old` is gone or changed in `new`, and what `new` has besides.
fn compare(old: &FileDescriptorSet, new: &FileDescriptorSet) -> (Vec<String>, Vec<String>) {
    let (old, new) = (facts(old), facts(new));
    (old.difference(&new).cloned().collect(), new.difference(&old).cloned().collect())
}

fn current() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build's own descriptors");
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set
}

fn golden() -> PathBuf {
    // Cargo runs tests in their crate's folder; where they were compiled may be another checkout.
    PathBuf::from("golden/meridian.v1.bin")
}

#[test]
fn what_an_earlier_build_says_is_still_understood() {
    let bless = std::env::var("MERIDIAN_BLESS").is_ok_and(|bless| bless == "1");
    let new = current();
    let old = match std::fs::read(golden()) {
        Ok(bytes) => FileDescriptorSet::decode(&bytes[..]).expect("the golden file is a FileDescriptorSet"),
        Err(error) if bless && error.kind() == std::io::ErrorKind::NotFound => FileDescriptorSet::default(),
        Err(error) => panic!("{}: {error}", golden().display()),
    };
    let (broken, added) = compare(&old, &new);
    assert!(
        broken.is_empty(),
        "a breaking change of proto/meridian/v1. These are gone, or are not what they were:\n  {}\n\
         Keep them (deprecate, and add new ones beside them), or begin meridian.v2. Blessing does not help.",
        broken.join("\n  ")
    );
    if bless {
        std::fs::create_dir_all(golden().parent().expect("it is in a folder"))
            .expect("the folder of golden files");
        std::fs::write(golden(), new.encode_to_vec()).expect("the golden file can be written");
        return;
    }
    assert!(
        added.is_empty(),
        "these are new, and from now on a promise. If they are meant, note them with\n\
         MERIDIAN_BLESS=1 cargo test -p meridian-wire --test compatibility\n  {}",
        added.join("\n  ")
    );
}

#[test]
fn every_file_is_watched() {
    let set = current();
    let names: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
    for name in ["catalog", "cluster", "common", "events", "peer", "raft", "streams"] {
        assert!(names.contains(&format!("meridian/v1/{name}.proto").as_str()), "{name}: {names:?}");
    }
    let facts = facts(&set);
    for fact in [
        "field meridian.v1.Event.key = 1 optional TYPE_BYTES as key",
        "field meridian.v1.Event.headers = 3 repeated .meridian.v1.Header as headers",
        "field meridian.v1.SubscribeStart.cursor = 5 TYPE_BYTES in oneof from as cursor",
        "value meridian.v1.Durability.Level.LEVEL_REGIONS = 2",
        "method meridian.v1.EventService.PublishBatches (stream .meridian.v1.PublishBatchesRequest) returns \
         (stream .meridian.v1.PublishBatchesResponse)",
    ] {
        assert!(facts.contains(fact), "{fact}\n{facts:#?}");
    }
}

/// A message of the set.
fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages.find(|message| message.name() == name).unwrap_or_else(|| panic!("a message {name}"))
}

fn field<'a>(set: &'a mut FileDescriptorSet, of: &str, name: &str) -> &'a mut FieldDescriptorProto {
    let mut fields = message(set, of).field.iter_mut();
    fields.find(|field| field.name() == name).unwrap_or_else(|| panic!("a field {of}.{name}"))
}

fn method<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut MethodDescriptorProto {
    let mut methods = set.file.iter_mut().flat_map(|file| &mut file.service).flat_map(|s| &mut s.method);
    methods.find(|method| method.name() == name).unwrap_or_else(|| panic!("a method {name}"))
}

type Change = fn(&mut FileDescriptorSet);

/// The comparer bites: each way to break the interface is told, and names what broke.
#[test]
fn every_kind_of_breaking_change_is_told() {
    let changes: &[(&str, Change, &str)] = &[
        (
            "a field is removed",
            |set| message(set, "Event").field.retain(|f| f.name() != "key"),
            "field meridian.v1.Event.key",
        ),
        (
            "a field is renumbered",
            |set| field(set, "Event", "key").number = Some(77),
            "field meridian.v1.Event.key = 1",
        ),
        (
            "a field is renamed",
            |set| field(set, "Event", "key").name = Some("kee".into()),
            "field meridian.v1.Event.key",
        ),
        (
            "a field is retyped",
            |set| field(set, "Position", "offset").r#type = Some(Type::Int64.into()),
            "field meridian.v1.Position.offset",
        ),
        (
            "a field gets another message",
            |set| field(set, "Position", "lane").type_name = Some(".meridian.v1.Origin".into()),
            "field meridian.v1.Position.lane",
        ),
        (
            "a field is repeated",
            |set| field(set, "Position", "offset").label = Some(Label::Repeated.into()),
            "field meridian.v1.Position.offset",
        ),
        (
            "a field is no longer optional",
            |set| {
                let key = field(set, "Event", "key");
                (key.proto3_optional, key.oneof_index) = (None, None);
            },
            "field meridian.v1.Event.key",
        ),
        (
            "a field becomes optional",
            |set| field(set, "Position", "offset").proto3_optional = Some(true),
            "field meridian.v1.Position.offset",
        ),
        (
            "a field leaves its oneof",
            |set| field(set, "SubscribeStart", "cursor").oneof_index = None,
            "field meridian.v1.SubscribeStart.cursor",
        ),
        (
            "a field joins a oneof",
            |set| field(set, "SubscribeStart", "credit_bytes").oneof_index = Some(0),
            "field meridian.v1.SubscribeStart.credit_bytes",
        ),
        (
            "a field changes its JSON name",
            |set| field(set, "Position", "offset").json_name = Some("o".into()),
            "field meridian.v1.Position.offset",
        ),
        (
            "an enum value is removed",
            |set| {
                message(set, "Durability").enum_type[0].value.retain(|v| v.name() != "LEVEL_REGIONS");
            },
            "value meridian.v1.Durability.Level.LEVEL_REGIONS",
        ),
        (
            "an enum value is renumbered",
            |set| {
                message(set, "Durability").enum_type[0].value[2].number = Some(9);
            },
            "value meridian.v1.Durability.Level.LEVEL_REGIONS = 2",
        ),
        ("an enum is removed", |set| message(set, "Link").enum_type.clear(), "enum meridian.v1.Link.State"),
        (
            "a message is removed",
            |set| {
                for file in &mut set.file {
                    file.message_type.retain(|m| m.name() != "Gap");
                }
            },
            "message meridian.v1.Gap",
        ),
        (
            "a reservation is given up",
            |set| {
                let message = message(set, "Event");
                message.reserved_name.clear();
                message.reserved_range.clear();
            },
            "reserved meridian.v1.Event",
        ),
        (
            "a method is removed",
            |set| {
                for service in set.file.iter_mut().flat_map(|file| &mut file.service) {
                    service.method.retain(|m| m.name() != "Subscribe");
                }
            },
            "method meridian.v1.EventService.Subscribe",
        ),
        (
            "a service is removed",
            |set| {
                for file in &mut set.file {
                    file.service.retain(|s| s.name() != "PeerService");
                }
            },
            "service meridian.v1.PeerService",
        ),
        (
            "a method takes another message",
            |set| method(set, "Publish").input_type = Some(".meridian.v1.Event".into()),
            "method meridian.v1.EventService.Publish",
        ),
        (
            "a method answers another message",
            |set| method(set, "Publish").output_type = Some(".meridian.v1.Event".into()),
            "method meridian.v1.EventService.Publish",
        ),
        (
            "a method streams its requests",
            |set| method(set, "Publish").client_streaming = Some(true),
            "method meridian.v1.EventService.Publish",
        ),
        (
            "a method streams its answers no more",
            |set| method(set, "Subscribe").server_streaming = Some(false),
            "method meridian.v1.EventService.Subscribe",
        ),
        (
            "the package is renamed",
            |set| set.file.iter_mut().for_each(|f| f.package = Some("meridian.v2".into())),
            "service meridian.v1.EventService",
        ),
    ];
    let mut old = current();
    // So that there is a reservation to give up.
    message(&mut old, "Event").reserved_name.push("partition_key".to_owned());
    for (what, change, names) in changes {
        let mut new = old.clone();
        change(&mut new);
        let (broken, _) = compare(&old, &new);
        assert!(broken.iter().any(|fact| fact.starts_with(names)), "{what} is not told: {broken:?}");
    }
}

#[test]
fn what_is_added_breaks_nothing_and_is_told() {
    let additions: &[(&str, Change, &str)] = &[
        (
            "a field",
            |set| {
                let mut field = field(set, "Event", "value").clone();
                (field.name, field.number) = (Some("more".into()), Some(40));
                message(set, "Event").field.push(field);
            },
            "field meridian.v1.Event.more",
        ),
        (
            "a oneof's member",
            |set| {
                let mut field = field(set, "SubscribeStart", "time_ms").clone();
                (field.name, field.number) = (Some("hlc".into()), Some(41));
                message(set, "SubscribeStart").field.push(field);
            },
            "field meridian.v1.SubscribeStart.hlc",
        ),
        (
            "an enum value",
            |set| {
                let values = &mut message(set, "Durability").enum_type[0].value;
                let mut value = values[0].clone();
                (value.name, value.number) = (Some("LEVEL_MORE".into()), Some(8));
                values.push(value);
            },
            "value meridian.v1.Durability.Level.LEVEL_MORE",
        ),
        (
            "a method",
            |set| {
                let mut method = method(set, "Publish").clone();
                method.name = Some("PublishMore".into());
                let events =
                    set.file.iter_mut().flat_map(|f| &mut f.service).find(|s| s.name() == "EventService");
                events.expect("it is there").method.push(method);
            },
            "method meridian.v1.EventService.PublishMore",
        ),
        (
            "a message",
            |set| {
                let mut gap = message(set, "Gap").clone();
                gap.name = Some("Hole".into());
                set.file[0].message_type.push(gap);
            },
            "message meridian.v1.Hole",
        ),
    ];
    let old = current();
    for (what, change, names) in additions {
        let mut new = old.clone();
        change(&mut new);
        let (broken, added) = compare(&old, &new);
        assert!(broken.is_empty(), "{what} breaks nothing: {broken:?}");
        assert!(added.iter().any(|fact| fact.starts_with(names)), "{what} is not told: {added:?}");
    }
}

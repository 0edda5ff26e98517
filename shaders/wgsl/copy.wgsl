// Copies p.count words within a buffer, from p.source to p.dest: states and pages by a kernel, since copy commands
// reach a fraction of the memory's rate.
@group(0) @binding(0) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x + id.y * 65535u * WG;
    if i < p.count { words[p.dest + i] = words[p.source + i]; }
}

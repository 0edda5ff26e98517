// Copies p.count words within a buffer, from p.source to p.dest: states and pages by a kernel, since copy commands
// reach a fraction of the memory's rate. The ranges are apart.
@group(0) @binding(0) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (group.x + group.y * 65535u) * WG * PER_THREAD + lane;
    var part: array<u32, PER_THREAD>;
    for (var j = 0u; j < PER_THREAD; j++) {
        let i = first + j * WG;
        if i < p.count { part[j] = words[p.source + i]; }
    }
    for (var j = 0u; j < PER_THREAD; j++) {
        let i = first + j * WG;
        if i < p.count { words[p.dest + i] = part[j]; }
    }
}

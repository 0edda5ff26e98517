// The sum of 32 numbers of workgroup memory by a binary tree, by one thread: i and i + 16, then i and i + 8, ...

// From column to column, so that threads that read columns of their own use different banks.
const COLUMN: u32 = 33u;

fn four(at: u32) -> vec4<f32> {
    return vec4<f32>(sh_part[at], sh_part[at + 1u], sh_part[at + 2u], sh_part[at + 3u]);
}

fn tree(at: u32) -> f32 {
    let a = four(at) + four(at + 16u);
    let b = four(at + 4u) + four(at + 20u);
    let c = four(at + 8u) + four(at + 24u);
    let d = four(at + 12u) + four(at + 28u);
    let e = (a + c) + (b + d);
    let f = e.xy + e.zw;
    return f.x + f.y;
}

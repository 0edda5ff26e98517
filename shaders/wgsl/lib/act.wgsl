// Activations for kernels that read several features at once. WIDE: in fours, for inputs whose rows begin at multiples
// of four.
#if WIDE
fn act_four(i: u32) -> vec4<f32> { return act[i / 4u]; }
fn act_at(i: u32) -> f32 { return act[i / 4u][i % 4u]; }
fn act_put(i: u32, x: f32) { act[i / 4u][i % 4u] = x; }
#else
fn act_four(i: u32) -> vec4<f32> { return vec4<f32>(act[i], act[i + 1u], act[i + 2u], act[i + 3u]); }
fn act_at(i: u32) -> f32 { return act[i]; }
fn act_put(i: u32, x: f32) { act[i] = x; }
#endif

fn act_unit(i: u32) -> array<f32, 8> {
    let a = act_four(i);
    let b = act_four(i + 4u);
    return array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
}

// Where does each member stand?
//
// This node in the middle, the others around it in the order of their names: on one ring as long as they fit, then in
// zigzag on several. The place depends on nothing but the names and the size of the picture, so nothing that happens
// to links or health moves anybody.

/** Pixels along a ring that one member takes. */
const PITCH = 13;

/** Rings, at most; the innermost has still room around this node. */
const MAX_RINGS = 6;

/** Members with names beside them, where there is room. */
const LABELLED = 44;

/**
 * @param {object[]} nodes in the order in which they go round
 * @returns {{places: Map, radius: number, labelled: boolean}} places by id, `[x, y, angle]`
 */
export function place(self, nodes, width, height) {
  const labelled = nodes.length <= LABELLED && width >= 520;
  const [cx, cy] = [width / 2, height / 2];
  const rx = Math.max(40, cx - (labelled ? 120 : 16));
  const ry = Math.max(40, cy - (labelled ? 28 : 16));
  const around = Math.PI * (3 * (rx + ry) - Math.sqrt((3 * rx + ry) * (rx + 3 * ry)));
  const rings = Math.min(MAX_RINGS, Math.max(1, Math.ceil((nodes.length * PITCH) / around)));
  const places = new Map([[self.id, [cx, cy, 0]]]);
  nodes.forEach((node, index) => {
    const angle = ((index + 0.5) / nodes.length) * 2 * Math.PI - Math.PI / 2;
    const share = 1 - (index % rings) * (0.66 / MAX_RINGS);
    places.set(node.id, [cx + Math.cos(angle) * rx * share, cy + Math.sin(angle) * ry * share, angle]);
  });
  const room = Math.min(around / Math.max(1, nodes.length), PITCH * 1.6);
  return { places, radius: Math.min(8, Math.max(2.5, (room * rings) / 3.2)), labelled };
}

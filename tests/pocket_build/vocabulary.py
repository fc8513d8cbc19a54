"""Hand-written word lists of the training corpus: what people look for in image collections."""

from __future__ import annotations


def _listed(text: str) -> list[str]:
    """The comma-separated phrases of `text`."""
    return "".join(line.strip() for line in text.splitlines()).split(",")


COLOURS = _listed(
    """
    red,blue,green,yellow,orange,purple,pink,brown,black,white,gray,golden,silver,beige,
    turquoise
    """
)

ADJECTIVES = _listed(
    """
    big,small,tiny,huge,old,new,young,wooden,metal,plastic,rusty,shiny,dirty,clean,wet,dry,
    snowy,sunny,foggy,rainy,cloudy,stormy,dark,bright,colorful,broken,empty,full,tall,long,
    round,flat,fluffy,furry,spotted,striped,sleeping,running,flying,swimming,sitting,standing,
    cute,beautiful,wild,fresh,hot,cold,frozen,sliced,grilled,fried,cooked,raw,vintage,antique,
    modern,toy,stuffed,giant,little,baby,open,closed,parked,abandoned,crowded,quiet,rocky,sandy,
    grassy,leafy,tropical
    """
)

PREPOSITIONS = _listed(
    """
    on,in,next to,near,under,in front of,behind,with,and,beside,on top of,inside,above
    """
)

SETTINGS = _listed(
    """
    on a beach,in the snow,at night,at sunset,at sunrise,in a forest,in a harbor,on the street,
    in the city,in a garden,on a table,in a field,on the grass,by the sea,in the water,
    on a lake,by a river,in the mountains,under a tree,in the desert,in a kitchen,in a bedroom,
    in a living room,in an office,in the rain,in the fog,in autumn,in winter,in spring,
    in summer,against a blue sky,on a white background,on a plate,in a bowl,in a box,at the zoo,
    on a farm,in a park,in a museum,on a road,on a rock,on a branch,in a tree,on a wall,
    through a window,from above,in the sky,on a sofa,on a bed,at the market,in a shop,
    at a train station,at the airport,in a stadium,on the ocean,in a cage,in a cup,
    in the background,close up,in black and white,indoors,outdoors
    """
)

PEOPLE = _listed(
    """
    man,woman,boy,girl,child,baby,person,people,crowd,family,couple,bride and groom,
    group of people,old man,old woman,friends,player,worker,chef,doctor,farmer,musician,dancer,
    soldier,cyclist,tourist,fisherman,skier,surfer,climber,children,men,women,kids
    """
)

ACTIVITIES = _listed(
    """
    walking,running,dancing,singing,cooking,eating,sleeping,reading a book,riding a bike,
    riding a horse,playing football,playing tennis,playing the guitar,playing the piano,
    swimming,surfing,skiing,climbing,hiking,fishing,driving a car,drinking coffee,drinking beer,
    holding an umbrella,holding a baby,wearing a hat,wearing sunglasses,taking a photo,
    talking on the phone,working at a computer,jumping,smiling,laughing,crying,kissing,hugging,
    sitting on a bench,standing in line,walking a dog,feeding birds,flying a kite,
    throwing a ball,painting,shopping,rowing a boat,sailing,riding a motorcycle,
    pushing a stroller,wearing a red dress,in a suit,getting married,celebrating a birthday,
    blowing out candles,gardening,praying,waving,posing for a picture,wearing glasses,
    wearing a uniform
    """
)

DOINGS = _listed(
    """
    plays with his toy,playing with a ball,lying on the floor,lies on the grass,sits on a branch,
    sitting on a chair,looking at the camera,looks out of the window,standing in the water,
    stands on a hill,is eating,eating grass,drinking water,sleeping on a bed,runs along a path,
    running through a field,jumping over a fence,walks across the road,flying over the sea,
    parked in front of a house,driving down the road,waiting at the station,left on a bench,
    hanging on the wall,lying on a table,standing in the corner,in the middle of the room,
    on the kitchen counter,in a shop window,on display,for sale,being washed,being repaired,
    covered with snow,full of people,filled with water,made of wood,with its young,in the wild,
    seen from behind,seen from the side,on its own,in a person's hand,held by a child,
    at the bottom of the sea,in the middle of the street,beside the road,behind a window
    """
)

VIEWS = _listed(
    """
    close-up of,a view of,a group of,a pile of,an old photo of,a picture of,someone with,
    a child with,a man holding,a woman looking at,people with,a room with,a street with,
    a table with
    """
)

EVERYDAY = _listed(
    """
    cup of coffee,glass of wine,glass of beer,bottle of water,slice of pizza,bowl of soup,
    plate of pasta,loaf of bread,bunch of flowers,bouquet of roses,pile of books,stack of books,
    pair of shoes,piece of cake,birthday cake,herd of cows,herd of elephants,flock of sheep,
    flock of birds,school of fish,row of houses,field of flowers,pile of leaves,christmas tree,
    snowy mountain,mountain range,mountain lake,waterfall,sunset,sunrise,rainbow,night sky,
    full moon,starry sky,city skyline,skyscraper,old building,church,castle,bridge,lighthouse,
    harbor,fishing boat,sailing boat,beach,palm tree,island,cliff,river,forest,autumn leaves,
    meadow,desert,sand dune,glacier,volcano,cave,garden,fountain,statue,playground,
    swimming pool,staircase,front door,window,street market,traffic jam,railway station,
    steam train,subway train,airplane,helicopter,hot air balloon,rocket launch,fireworks,
    campfire,tent,bicycle,mountain bike,motorbike,sports car,fire truck,school bus,tractor,
    laptop,computer screen,mobile phone,television,guitar,piano,drum kit,football,tennis racket,
    skateboard,surfboard,ski slope,wedding dress,business meeting,concert,party,passport,map,
    document,handwriting,graffiti,painting,drawing,sculpture,menu,sushi,hamburger,salad,
    ice cream,fruit,vegetables,breakfast,dinner table,barbecue,kitten,puppy,cat,dog,horse,cow,
    pig,sheep,goat,chicken,duck,owl,eagle,parrot,penguin,dolphin,whale,shark,turtle,frog,snake,
    lizard,spider,butterfly,bee,ladybug,lion,tiger,elephant,giraffe,zebra,monkey,bear,wolf,fox,
    deer,rabbit,squirrel,mouse,hedgehog,flower,rose,sunflower,tulip,tree,mushroom,leaf,grass
    """
)

# American -> British. The student sees texts in both spellings; the teacher sees the American one.
BRITISH = dict(
    pair.split(":")
    for pair in _listed(
        """
        harbor:harbour,color:colour,colorful:colourful,gray:grey,center:centre,theater:theatre,
        fiber:fibre,airplane:aeroplane,tire:tyre,plow:plough,pajamas:pyjamas,mustache:moustache,
        jewelry:jewellery,donut:doughnut,truck:lorry,flavor:flavour,armor:armour,neighbor:neighbour,
        traveler:traveller,meter:metre,caliber:calibre,specter:spectre,luster:lustre,mold:mould,
        molding:moulding,checkered:chequered,curb:kerb,woolen:woollen,catalog:catalogue,
        aluminum:aluminium,sidewalk:pavement,stroller:pram,sneaker:trainer,sneakers:trainers,
        eggplant:aubergine,zucchini:courgette,parlor:parlour,vapor:vapour,rumor:rumour,
        sulfur:sulphur,cozy:cosy,ax:axe,yogurt:yoghurt,subway:underground,diaper:nappy,
        elevator:lift,motorcycle:motorbike,ladybug:ladybird,soccer:football,fall:autumn
        """
    )
)

# Words before a noun, words between listed nouns, and words that are never nouns.
DETERMINERS = frozenset(_listed("a,an,the,his,her,their,its,my,your,our,two,three,many,some,of"))
LISTING = DETERMINERS | frozenset(_listed("and,or,with,beside,next,to"))
FUNCTION_WORDS = LISTING | frozenset(
    _listed(
        """
        on,in,at,by,for,from,as,is,are,was,were,be,it,he,she,they,we,you,i,this,that,these,those,
        no,not,near,under,over,behind,inside,above,top,front,photo,picture,image,photograph,photos,
        pictures,one,out,up,down,off,into,about,who,which,what,when,where,while,than,then,so,too,
        very,has,have,had,do,does,did,will,would,can,could,may,us,me,him,them,all,any,each,other,
        like,against,through
        """
    )
)
